// How to reach Rowlock: channels as the service config says; who is signed in; what an error says.
import { readFileSync } from "node:fs";
import { randomUUID } from "node:crypto";
import type { Readable } from "node:stream";
import { promisify } from "node:util";
import { credentials, Metadata } from "@grpc/grpc-js";
import type {
  CallOptions,
  ChannelCredentials,
  Client,
  ClientOptions,
  ClientUnaryCall,
  ServiceDefinition,
  ServiceError,
} from "@grpc/grpc-js";
import { ErrorInfo, Status } from "./gen/google_rpc.js";
import {
  type AuthServiceClient,
  RefreshTokensRequest,
  type RefreshTokensResponse,
  SignInRequest,
  type SignInResponse,
  SignUpRequest,
} from "./gen/rowlock/identity/v1/auth_service.js";

// From dist, where the compiled file is.
const serviceConfig = readFileSync(new URL("../../../service-config.json", import.meta.url), "utf8");

type Unary<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: (error: ServiceError | null, response: Response) => void,
) => ClientUnaryCall;

// A generated client whose unary methods return promises.
export type Promising<Generated> = {
  [Method in keyof Generated]: Generated[Method] extends (...of: any) => Readable
    ? Generated[Method]
    : Generated[Method] extends Unary<infer Request, infer Response>
      ? (request: Request, metadata?: Metadata) => Promise<Response>
      : Generated[Method];
};

interface Constructor<Generated> {
  new (address: string, credentials: ChannelCredentials, options?: Partial<ClientOptions>): Generated;
  service: ServiceDefinition;
}

// A client for all of these comma-separated addresses, as the service config says. Where a name stands for all replicas, it
// is "dns:///name:port".
export function connect<Generated extends Client>(
  Service: Constructor<Generated>,
  addresses: string,
): Promising<Generated> {
  const target = "ipv4:" + addresses.replaceAll("http://", "");
  const client: any = new Service(target, credentials.createInsecure(), { "grpc.service_config": serviceConfig });
  for (const [name, method] of Object.entries(Service.service)) {
    if (!method.responseStream) client[name] = promisify(client[name]).bind(client);
  }
  return client;
}

// Someone who is signed in.
export class Session {
  #refreshing?: Promise<void>;

  private constructor(
    private readonly auth: Promising<AuthServiceClient>,
    public tokens: SignInResponse | RefreshTokensResponse,
  ) {}

  static async signIn(auth: Promising<AuthServiceClient>, email: string, password: string): Promise<Session> {
    return new Session(auth, await auth.signIn(SignInRequest.create({ email, password })));
  }

  // Signs somebody up, who stays as a user of this system.
  static async newcomer(auth: Promising<AuthServiceClient>, displayName: string): Promise<Session> {
    const email = `${randomUUID()}@rowlock.test`;
    const password = randomUUID();
    await auth.signUp(SignUpRequest.create({ email, password, displayName }));
    return Session.signIn(auth, email, password);
  }

  // Trades the refresh token, which is good for one use, for the next tokens.
  async refresh(): Promise<void> {
    this.#refreshing ??= this.auth
      .refreshTokens(RefreshTokensRequest.create({ refreshToken: this.tokens.refreshToken }))
      .then((tokens) => void (this.tokens = tokens))
      .finally(() => (this.#refreshing = undefined));
    await this.#refreshing;
  }

  // What to send with a call: an access token that is good for half a minute more.
  async metadata(): Promise<Metadata> {
    if (this.tokens.accessTokenExpireTime!.getTime() - Date.now() < 30_000) await this.refresh();
    const metadata = new Metadata();
    metadata.set("authorization", `Bearer ${this.tokens.accessToken}`);
    return metadata;
  }
}

// The google.rpc.ErrorInfo of an error of booking-service: its reason is the name that a program decides by, its message is
// for people.
export function reason(error: unknown): string | undefined {
  const [encoded] = (error as Partial<ServiceError>).metadata?.get("grpc-status-details-bin") ?? [];
  if (!Buffer.isBuffer(encoded)) return undefined;
  const { details } = Status.decode(encoded);
  const info = details.find((detail) => detail.typeUrl.endsWith("/google.rpc.ErrorInfo"));
  return info && ErrorInfo.decode(info.value).reason;
}
