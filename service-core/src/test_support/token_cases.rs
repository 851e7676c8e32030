//! Everything that is sent in place of a good access token, and what has to become of it. Both services run the same table
//! through gRPC.
//!
//! After RFC 8725 (best practices), RFC 9068 (access tokens), RFC 7515 and RFC 7519. What a header brings along to find a
//! key by (`jku`, `jwk`, `x5u`, `x5c`, `x5t`) is ignored; `crit` is refused, whatever it names.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use uuid::Uuid;

use super::TokenMint;
use crate::auth::Role;
use crate::status::reason;

/// One way to call.
#[derive(Debug)]
pub struct TokenCase {
    /// What is special about it.
    pub name: String,
    /// What the call carries.
    pub metadata: MetadataMap,
    /// The reason of the refusal, or `None` if the call is answered.
    pub refusal: Option<&'static str>,
}

/// The head of SubjectPublicKeyInfo for a point on P-256.
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// All cases, for a user whose good token with this role is answered. `mint` must hold the key that the service accepts,
/// and keep the service's time.
#[must_use]
pub fn token_cases(mint: &TokenMint, user: Uuid, role: Role) -> Vec<TokenCase> {
    let mut table = Table { mint, user, role, cases: Vec::new() };
    table.schemes();
    table.headers();
    table.brought_keys();
    table.algorithms();
    table.claims();
    table.times();
    table.forms();
    table.cases
}

struct Table<'a> {
    mint: &'a TokenMint,
    user: Uuid,
    role: Role,
    cases: Vec<TokenCase>,
}

impl Table<'_> {
    /// What stands around the token.
    fn schemes(&mut self) {
        let good = self.good();
        self.add("no header", &[], Some(reason::TOKEN_MISSING));
        for (name, value) in [
            ("as it should be", format!("Bearer {good}")),
            ("scheme in lower case", format!("bearer {good}")),
            ("scheme in capitals", format!("BEARER {good}")),
            ("two spaces", format!("Bearer  {good}")),
        ] {
            self.add(name, &[&value], None);
        }
        for (name, value) in [
            ("nothing", String::new()),
            ("scheme alone", "Bearer".to_owned()),
            ("scheme and space", "Bearer ".to_owned()),
            ("token alone", good.clone()),
            ("another scheme", format!("Basic {good}")),
            ("DPoP", format!("DPoP {good}")),
            ("longer scheme", format!("Bearers {good}")),
            ("colon", format!("Bearer: {good}")),
            ("space in front", format!(" Bearer {good}")),
            ("space behind", format!("Bearer {good} ")),
            ("tab", format!("Bearer\t{good}")),
            ("tab behind", format!("Bearer {good}\t")),
            ("quotes", format!("Bearer \"{good}\"")),
            ("parameter", format!("Bearer token={good}")),
            ("two tokens", format!("Bearer {good} {good}")),
            ("two values in one", format!("Bearer {good}, Bearer {good}")),
            ("oversized", format!("Bearer {}", "x".repeat(9_000))),
            ("a good one with an oversized tail", format!("Bearer {good}.{}", "x".repeat(9_000))),
        ] {
            self.add(name, &[&value], Some(reason::TOKEN_INVALID));
        }
        let (bearer, nonsense) = (format!("Bearer {good}"), "Bearer x.y.z".to_owned());
        for (name, values) in [
            ("the same header twice", [&bearer, &bearer]),
            ("a bad header behind a good one", [&bearer, &nonsense]),
            ("a good header behind a bad one", [&nonsense, &bearer]),
        ] {
            self.add(name, &values.map(String::as_str), Some(reason::TOKEN_INVALID));
        }
    }

    /// The fields of the token's header but `alg` and keys.
    fn headers(&mut self) {
        for typ in ["at+jwt", "AT+JWT", "application/at+jwt"] {
            self.with_header(&format!("typ {typ}"), &json!({ "typ": typ }), None);
        }
        let other_typs = [json!("JWT"), json!("at+jws"), json!("at+jwt "), json!(""), json!(null), json!(7)];
        for typ in other_typs.into_iter().chain([json!(["at+jwt"]), json!("text/at+jwt")]) {
            self.bad_header(&format!("typ {typ}"), &json!({ "typ": typ }));
        }
        self.without_header("typ");
        for kid in [
            json!("unknown"),
            json!(""),
            json!("k".repeat(4_000)),
            json!("../../../../dev/null"),
            json!("' OR '1'='1"),
            json!("\u{0}"),
            json!(null),
            json!(1),
            json!([self.kid()]),
            json!(format!("{} ", self.kid())),
        ] {
            self.bad_header(&format!("kid {kid:.40}"), &json!({ "kid": kid }));
        }
        self.without_header("kid");
        for crit in
            [json!(["exp"]), json!(["b64"]), json!(["alg"]), json!([]), json!(null), json!("exp"), json!([7])]
        {
            self.bad_header(&format!("crit {crit}"), &json!({ "crit": crit }));
        }
        self.bad_header("b64 and crit", &json!({ "b64": false, "crit": ["b64"] }));
        let good = String::from_utf8(json_bytes(&self.header())).expect("JSON is text");
        for (name, header) in [
            ("twice alg", good.replacen('{', r#"{"alg":"none","#, 1)),
            ("twice kid", good.replacen('{', r#"{"kid":"other","#, 1)),
            ("twice typ", good.replacen('{', r#"{"typ":"JWT","#, 1)),
            ("twice crit", good.replacen('{', r#"{"crit":["a"],"crit":null,"#, 1)),
            ("an array for a header", "[]".to_owned()),
            ("an empty header", "{}".to_owned()),
            ("a header with a tail", format!("{good} {{}}")),
            ("a header that is cut off", good.trim_end_matches('}').to_owned()),
        ] {
            let token = self.sign(header.as_bytes(), &self.claim_bytes());
            self.bad(name, &token);
        }
        let token = self.sign(b"\xff\xfe", &self.claim_bytes());
        self.bad("a header that is no text", &token);
    }

    /// Keys and places of keys in the header.
    fn brought_keys(&mut self) {
        let foreign = TokenMint::new();
        let key: Value = serde_json::from_str(&foreign.jwks_json()).expect("a key set is JSON");
        let key = key.pointer("/keys/0").cloned().unwrap_or_default();
        let foreign_kid = json!(foreign.header().kid);
        for (field, value) in [
            ("jwk", key),
            ("jku", json!("https://evil.test/jwks.json")),
            ("x5u", json!("file:///etc/passwd")),
            ("x5c", json!(["MIIB"])),
            ("x5t", json!("AAAA")),
            ("x5t#S256", json!("AAAA")),
        ] {
            self.with_header(&format!("{field} beside a good signature"), &json!({ field: value }), None);
            for kid in [json!(self.kid()), foreign_kid.clone()] {
                let mut header = self.header();
                merge(&mut header, &json!({ field: value, "kid": kid }));
                let token = foreign.sign_bytes(&json_bytes(&header), &self.claim_bytes());
                self.bad(&format!("{field} of the key that signed, kid {kid}"), &token);
            }
        }
        let token = foreign.sign_bytes(&json_bytes(&self.header()), &self.claim_bytes());
        self.bad("another key under a known kid", &token);
    }

    /// `alg`: none, confusion, and what the key is not for.
    fn algorithms(&mut self) {
        let claims = self.claim_bytes();
        let good = self.good();
        let signature = good.rsplit('.').next().unwrap_or_default();
        for alg in [
            json!("none"),
            json!("None"),
            json!("NONE"),
            json!("nOnE"),
            json!(""),
            json!("es256"),
            json!("ES256K"),
            json!("ES384"),
            json!("ES512"),
            json!("RS256"),
            json!("PS256"),
            json!("EdDSA"),
            json!("HS256"),
            json!("HS512"),
            json!(null),
            json!(0),
            json!(["ES256"]),
        ] {
            let mut header = self.header();
            merge(&mut header, &json!({ "alg": alg }));
            let unsigned = unsigned(&json_bytes(&header), &claims);
            self.bad(&format!("alg {alg} without a signature"), &format!("{unsigned}."));
            self.bad(&format!("alg {alg} with a signature of ES256"), &format!("{unsigned}.{signature}"));
            let token = self.sign(&json_bytes(&header), &claims);
            self.bad(&format!("alg {alg}, signed with ES256"), &token);
        }
        self.without_header("alg");
        // The public key, which everybody knows, as the secret of a MAC.
        let keys: Value = serde_json::from_str(&self.mint.jwks_json()).expect("a key set is JSON");
        let part = |name: &str| {
            let text = keys.pointer(&format!("/keys/0/{name}")).and_then(Value::as_str).unwrap_or_default();
            URL_SAFE_NO_PAD.decode(text).expect("a coordinate is base64")
        };
        let point = [&[4][..], &part("x"), &part("y")].concat();
        let spki = [&P256_SPKI[..], &point].concat();
        let pem =
            format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(&spki));
        let mut header = self.header();
        merge(&mut header, &json!({ "alg": "HS256" }));
        let message = unsigned(&json_bytes(&header), &claims);
        for (name, secret) in [
            ("point", point.clone()),
            ("point without its first byte", [part("x"), part("y")].concat()),
            ("DER", spki),
            ("PEM", pem.into_bytes()),
            ("key set", self.mint.jwks_json().into_bytes()),
            ("nothing", vec![]),
        ] {
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), message.as_bytes());
            let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()));
            self.bad(&format!("HS256 by the public key as {name}"), &token);
        }
        let message = unsigned(&json_bytes(&self.header()), &claims);
        for (name, signature) in [
            ("empty", vec![]),
            ("of zeros", vec![0; 64]),
            ("of ones", vec![0xff; 64]),
            ("too short", vec![1; 63]),
            ("too long", vec![1; 65]),
            ("DER of zeros", vec![0x30, 6, 2, 1, 0, 2, 1, 0]),
        ] {
            self.bad(
                &format!("a signature {name}"),
                &format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)),
            );
        }
    }

    /// Claims but the times: missing, of the wrong type, of somebody else.
    fn claims(&mut self) {
        let (iss, aud) = (self.claim("iss"), self.claim("aud"));
        let slashed = |value: &Value| json!(format!("{}/", value.as_str().unwrap_or_default()));
        let cases = [
            ("iss", vec![json!("other"), json!(""), json!([iss]), json!({ "iss": iss }), slashed(&iss)]),
            (
                "aud",
                vec![
                    json!("other"),
                    json!(""),
                    json!(["other"]),
                    json!([aud]),
                    json!([]),
                    json!({}),
                    slashed(&aud),
                ],
            ),
            (
                "sub",
                vec![
                    json!(""),
                    json!("admin"),
                    json!([self.user.to_string()]),
                    json!({}),
                    json!(self.user.as_u128().to_string()),
                ],
            ),
            (
                "role",
                vec![json!(""), json!("root"), json!("ADMIN"), json!(["admin"]), json!({ "admin": true })],
            ),
            ("sid", vec![json!(""), json!("session"), json!([]), json!({})]),
            ("sv", vec![json!("1"), json!(1.5), json!([1]), json!(1e30)]),
            ("jti", vec![json!([]), json!({})]),
        ];
        for (claim, values) in cases {
            for value in values.into_iter().chain([json!(7.5), json!(true)]) {
                self.bad_claim(claim, &value);
            }
            if claim != "sid" {
                self.bad_claim(claim, &json!(null));
                self.without_claim(claim);
            }
        }
        let good = String::from_utf8(self.claim_bytes()).expect("JSON is text");
        let twice = |claim: &str| good.replacen('{', &format!(r#"{{"{claim}":{},"#, self.claim(claim)), 1);
        let mut bodies: Vec<(String, String)> =
            ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "role", "sv"]
                .map(|c| (format!("twice {c}"), twice(c)))
                .into();
        bodies.extend(
            [
                ("no claims", "{}".to_owned()),
                ("claims in an array", format!("[{good}]")),
                ("claims with a tail", format!("{good}{good}")),
                ("claims cut off", good.trim_end_matches('}').to_owned()),
                ("empty claims", String::new()),
                ("null for claims", "null".to_owned()),
                ("claims with a mark of byte order", format!("\u{feff}{good}")),
                (
                    "claims nested too deep",
                    good.replacen('{', &format!(r#"{{"role":{}"#, "[".repeat(2_000)), 1),
                ),
            ]
            .map(|(name, body)| (name.to_owned(), body)),
        );
        for (name, body) in bodies {
            let token = self.sign(&json_bytes(&self.header()), body.as_bytes());
            self.bad(&name, &token);
        }
        let token = self.sign(&json_bytes(&self.header()), b"\xff{}");
        self.bad("claims that are no text", &token);
    }

    /// Times: passed, to come, missing, and no times at all.
    fn times(&mut self) {
        let now = self.claim("iat").as_i64().unwrap_or_default();
        for (claim, value) in [("exp", now - 6), ("exp", now - 86_400), ("exp", 0)] {
            let token = self.with_claim(claim, &json!(value));
            self.add_token(&format!("{claim} {value}"), &token, Some(reason::TOKEN_EXPIRED));
        }
        // The issuer's clock may be off by 5 seconds.
        for (claim, value) in [("nbf", now + 60), ("iat", now + 60)] {
            self.bad_claim(claim, &json!(value));
        }
        let good = String::from_utf8(self.claim_bytes()).expect("JSON is text");
        for claim in ["exp", "nbf", "iat"] {
            for value in [
                json!(i64::MAX),
                json!(u64::MAX),
                json!(i64::MIN),
                json!(1e300),
                json!(now.to_string()),
                json!("2100-01-01T00:00:00Z"),
                json!([now + 60]),
                json!({}),
                json!(true),
                json!(null),
            ] {
                self.bad_claim(claim, &value);
            }
            self.without_claim(claim);
            let stated = format!("\"{claim}\":{}", self.claim(claim));
            for number in
                ["1e400", "-1e400", "1e999999999", "0x7fffffff", "NaN", "Infinity", "99999999999999999999"]
            {
                let body = good.replacen(&stated, &format!("\"{claim}\":{number}"), 1);
                let token = self.sign(&json_bytes(&self.header()), body.as_bytes());
                self.bad(&format!("{claim} {number}"), &token);
            }
        }
        self.bad_claim("exp", &json!(-1));
    }

    /// How the parts are written and put together.
    fn forms(&mut self) {
        let good = self.good();
        let parts: Vec<&str> = good.split('.').collect();
        let [header, claims, signature] = parts[..] else { unreachable!("a token has three parts") };
        for (name, token) in [
            ("a part behind", format!("{good}.{signature}")),
            ("a dot behind", format!("{good}.")),
            ("a dot in front", format!(".{good}")),
            ("two parts", format!("{header}.{claims}")),
            ("one part", header.to_owned()),
            ("dots alone", "..".to_owned()),
            ("no claims", format!("{header}..{signature}")),
            ("claims and signature changed over", format!("{header}.{signature}.{claims}")),
            ("five parts as if encrypted", format!("{header}.{claims}.{signature}.{claims}.{signature}")),
            ("unsigned claims behind the signature", format!("{header}.{claims}.{signature}{claims}")),
            ("a token within a token", format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(&good))),
            (
                "JSON serialization",
                json!({ "protected": header, "payload": claims, "signature": signature }).to_string(),
            ),
            ("percent-encoded", good.replace('.', "%2E")),
        ] {
            self.bad(name, &token);
        }
        for (at, name) in ["header", "claims", "signature"].iter().enumerate() {
            let with = |edit: &dyn Fn(&str) -> String| {
                let mut edited: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
                if let Some(part) = edited.get_mut(at) {
                    *part = edit(part);
                }
                edited.join(".")
            };
            self.bad(&format!("{name} padded"), &with(&|part| format!("{part}=")));
            self.bad(&format!("{name} padded twice"), &with(&|part| format!("{part}==")));
            self.bad(&format!("{name} with a space"), &with(&|part| format!("{part} ")));
            self.bad(&format!("{name} without its end"), &with(&|part| part[..part.len() - 1].to_owned()));
        }
        // The last of 86 characters holds four bits that no byte has. Were they passed over, one token could be written in
        // 16 ways.
        let (body, last) = good.split_at(good.len() - 1);
        for other in alphabet().filter(|letter| !last.contains(*letter)) {
            self.bad(&format!("signature that ends with {other}"), &format!("{body}{other}"));
        }
        // Claims whose base64 has letters that the two alphabets write differently, and needs padding.
        let (mut odd, mut claims) = (self.claim_map(), Vec::new());
        for filler in 0..3 {
            let note = format!("\u{3ff}\u{3ff}??>>~~{}", "x".repeat(filler));
            merge(&mut odd, &json!({ "note": note }));
            claims = json_bytes(&odd);
            if !claims.len().is_multiple_of(3) {
                break;
            }
        }
        let header = json_bytes(&self.header());
        let token = self.sign(&header, &claims);
        self.add_token("claims of the alphabet for URLs", &token, None);
        let [header, _, _] = token.split('.').collect::<Vec<_>>()[..] else {
            unreachable!("a token has three parts")
        };
        for (name, encoded) in [
            ("claims in the standard alphabet", STANDARD.encode(&claims).trim_end_matches('=').to_owned()),
            ("claims with padding", URL_SAFE.encode(&claims)),
        ] {
            // Signed as it is written: the form alone is wrong.
            let token = self.mint.sign_text(&format!("{header}.{encoded}"));
            self.bad(name, &token);
        }
    }

    fn good(&self) -> String {
        self.sign(&json_bytes(&self.header()), &self.claim_bytes())
    }

    fn sign(&self, header: &[u8], claims: &[u8]) -> String {
        self.mint.sign_bytes(header, claims)
    }

    fn header(&self) -> Value {
        json!(self.mint.header())
    }

    fn kid(&self) -> String {
        self.mint.header().kid.unwrap_or_default()
    }

    fn claim_map(&self) -> Value {
        json!(self.mint.claims(self.user, self.role))
    }

    fn claim_bytes(&self) -> Vec<u8> {
        json_bytes(&self.claim_map())
    }

    fn claim(&self, name: &str) -> Value {
        self.claim_map().get(name).cloned().unwrap_or_default()
    }

    fn with_claim(&self, name: &str, value: &Value) -> String {
        let mut claims = self.claim_map();
        merge(&mut claims, &json!({ name: value }));
        self.sign(&json_bytes(&self.header()), &json_bytes(&claims))
    }

    fn bad_claim(&mut self, name: &str, value: &Value) {
        let token = self.with_claim(name, value);
        self.bad(&format!("{name} {value}"), &token);
    }

    fn without_claim(&mut self, name: &str) {
        let mut claims = self.claim_map();
        claims.as_object_mut().and_then(|claims| claims.remove(name));
        let token = self.sign(&json_bytes(&self.header()), &json_bytes(&claims));
        self.bad(&format!("without {name}"), &token);
    }

    fn with_header(&mut self, name: &str, fields: &Value, refusal: Option<&'static str>) {
        let mut header = self.header();
        merge(&mut header, fields);
        let token = self.sign(&json_bytes(&header), &self.claim_bytes());
        self.add_token(name, &token, refusal);
    }

    fn bad_header(&mut self, name: &str, fields: &Value) {
        self.with_header(name, fields, Some(reason::TOKEN_INVALID));
    }

    fn without_header(&mut self, field: &str) {
        let mut header = self.header();
        header.as_object_mut().and_then(|header| header.remove(field));
        let token = self.sign(&json_bytes(&header), &self.claim_bytes());
        self.bad(&format!("without {field}"), &token);
    }

    fn bad(&mut self, name: &str, token: &str) {
        self.add_token(name, token, Some(reason::TOKEN_INVALID));
    }

    fn add_token(&mut self, name: &str, token: &str, refusal: Option<&'static str>) {
        self.add(name, &[&format!("Bearer {token}")], refusal);
    }

    fn add(&mut self, name: &str, authorization: &[&str], refusal: Option<&'static str>) {
        let mut metadata = MetadataMap::new();
        for value in authorization {
            let value = AsciiMetadataValue::try_from(*value).expect("the value can be sent");
            metadata.append("authorization", value);
        }
        self.cases.push(TokenCase { name: name.to_owned(), metadata, refusal });
    }
}

/// Sets fields of an object.
fn merge(into: &mut Value, fields: &Value) {
    if let (Value::Object(into), Value::Object(fields)) = (into, fields.clone()) {
        into.extend(fields);
    }
}

fn json_bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn unsigned(header: &[u8], claims: &[u8]) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
}

/// The letters of base64 for URLs.
fn alphabet() -> impl Iterator<Item = char> {
    ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['-', '_'])
}
