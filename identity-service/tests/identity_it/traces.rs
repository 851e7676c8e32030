//! Traces, as a collector gets them from the binary.

use identity_service::MIGRATOR;
use identity_service::signing::{KeyDir, SigningAlgorithm};
use rowlock_proto::identity::v1::auth_service_client::AuthServiceClient;
use rowlock_proto::identity::v1::{SignInRequest, SignUpRequest};
use service_core::test_support::{CollectedSpan, TestCluster, TestCollector, attribute, hex, traced};
use tonic::transport::Endpoint;

use crate::child::serve;
use crate::server::PASSWORD;

const SAMPLED: &str = "0af7651916cd43dd8448eb211c80319c";
const NOT_SAMPLED: &str = "1bf7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const EMAIL: &str = "ada@example.org";

/// Whether one span leads to the other by its parents.
fn is_within(spans: &[CollectedSpan], inner: &CollectedSpan, outer: &CollectedSpan) -> bool {
    let parent = spans.iter().find(|span| span.span_id == inner.parent_span_id);
    parent.is_some_and(|parent| parent.span_id == outer.span_id || is_within(spans, parent, outer))
}

// The collector has to answer while the end of the process is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callers_trace_goes_into_the_statements_and_tells_nobodys_address_or_password() {
    let collector = TestCollector::start().await;
    let database = TestCluster::database("identity", &MIGRATOR).await;
    let keys = tempfile::tempdir().unwrap();
    KeyDir::new(keys.path(), false).generate(SigningAlgorithm::Es256, false).unwrap();
    let endpoint = format!("http://{}", collector.address);
    let arguments = ["--otlp-endpoint", &endpoint, "--otlp-sample-ratio", "0"];
    let serving = serve(&database, keys.path().to_str().unwrap(), &arguments);
    let channel = Endpoint::from_shared(format!("http://{}", serving.grpc)).unwrap().connect_lazy();

    let mut auth = AuthServiceClient::new(channel);
    let who = SignUpRequest {
        email: EMAIL.into(),
        password: PASSWORD.into(),
        display_name: "Ada".into(),
        ..Default::default()
    };
    auth.sign_up(traced(who, SAMPLED, PARENT, "01")).await.unwrap();
    let who = SignInRequest { email: EMAIL.into(), password: PASSWORD.into() };
    let session = auth.sign_in(traced(who.clone(), SAMPLED, PARENT, "01")).await.unwrap().into_inner();
    auth.sign_in(traced(who.clone(), NOT_SAMPLED, PARENT, "00")).await.unwrap();
    auth.sign_in(who).await.unwrap();
    let (status, _) = serving.stop("-TERM");
    assert!(status.success());

    // The last ones were sent before the process ended.
    let spans = collector.spans();
    let of_caller = |span: &&CollectedSpan| hex(&span.trace_id) == SAMPLED;
    let servers: Vec<&CollectedSpan> = spans.iter().filter(of_caller).filter(|span| span.kind == 2).collect();
    for (server, (method, statement)) in
        servers.iter().zip([("SignUp", "INSERT users"), ("SignIn", "SELECT users")])
    {
        assert_eq!(server.name, format!("rowlock.identity.v1.AuthService/{method}"));
        assert_eq!(hex(&server.parent_span_id), PARENT);
        assert_eq!(attribute(server, "rpc.grpc.status_code"), "0");
        for name in [statement, "COMMIT"] {
            let within = |span: &CollectedSpan| span.name == name && is_within(&spans, span, server);
            assert!(spans.iter().any(within), "{method} has no {name}: {spans:#?}");
        }
    }
    assert_eq!(servers.len(), 2, "{spans:#?}");
    assert!(
        spans.iter().all(|span| hex(&span.trace_id) != NOT_SAMPLED),
        "who decided against it is not recorded"
    );
    let decided_here = spans.iter().any(|span| span.kind == 2 && hex(&span.trace_id) != SAMPLED);
    assert!(!decided_here, "of those who have not decided, none of a hundred");
    let everything = format!("{spans:?}");
    for secret in [EMAIL, PASSWORD, &session.access_token, &session.refresh_token] {
        assert!(!everything.contains(secret), "{everything}");
    }
}
