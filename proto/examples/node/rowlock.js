// How to reach Rowlock: the contract, read from its .proto files; channels; who is signed in; what an error says.
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { randomUUID } from "node:crypto";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const contract = fileURLToPath(new URL("../../", import.meta.url));
const protos = ["rowlock/booking/v1", "rowlock/identity/v1"].flatMap((folder) =>
  readdirSync(contract + folder).map((file) => `${folder}/${file}`),
);
const definitions = protoLoader.loadSync([...protos, "google_rpc.proto"], {
  includeDirs: [contract, fileURLToPath(new URL(".", import.meta.url))],
  longs: Number,
  enums: String,
  defaults: true,
  oneofs: true,
});
export const { booking, identity } = grpc.loadPackageDefinition(definitions).rowlock;
const serviceConfig = readFileSync(contract + "service-config.json", "utf8");

// A client for all of these comma-separated addresses, as the service config says. Where a name stands for all replicas, it
// is "dns:///name:port". Its unary methods return promises.
export function connect(Client, addresses) {
  const target = "ipv4:" + addresses.replaceAll("http://", "");
  const client = new Client(target, grpc.credentials.createInsecure(), { "grpc.service_config": serviceConfig });
  for (const [name, method] of Object.entries(Client.service)) {
    if (!method.responseStream) client[name] = promisify(client[name]).bind(client);
  }
  return client;
}

// Someone who is signed in.
export class Session {
  static async signIn(auth, email, password) {
    return new Session(auth, await auth.SignIn({ email, password }));
  }

  // Signs somebody up, who stays as a user of this system.
  static async newcomer(auth, displayName) {
    const email = `${randomUUID()}@rowlock.test`;
    const password = randomUUID();
    await auth.SignUp({ email, password, displayName });
    return Session.signIn(auth, email, password);
  }

  constructor(auth, tokens) {
    this.auth = auth;
    this.tokens = tokens;
  }

  // Trades the refresh token, which is good for one use, for the next tokens.
  async refresh() {
    this.refreshing ??= this.auth
      .RefreshTokens({ refreshToken: this.tokens.refreshToken })
      .then((tokens) => (this.tokens = tokens))
      .finally(() => (this.refreshing = undefined));
    await this.refreshing;
  }

  // What to send with a call: an access token that is good for half a minute more.
  async metadata() {
    if (this.tokens.accessTokenExpireTime.seconds - Date.now() / 1000 < 30) await this.refresh();
    const metadata = new grpc.Metadata();
    metadata.set("authorization", `Bearer ${this.tokens.accessToken}`);
    return metadata;
  }
}

// The google.rpc.ErrorInfo of an error of booking-service: its reason is the name that a program decides by, its message is
// for people.
export function reason(error) {
  const [encoded] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (!encoded) return undefined;
  const { details } = definitions["google.rpc.Status"].deserialize(encoded);
  const info = details.find((detail) => detail.type_url.endsWith("/google.rpc.ErrorInfo"));
  if (!info) return undefined;
  return definitions["google.rpc.ErrorInfo"].deserialize(info.value).reason;
}
