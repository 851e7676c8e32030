//! A real L7 proxy in front of the replicas.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::stage::free_address;
use crate::system::eventually;

/// Envoy, as operators run it: gRPC health checks, least requests. It repeats nothing by itself but what never reached a
/// replica. Killed on drop.
pub(crate) struct Envoy {
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Envoy {
    /// `ROWLOCK_ENVOY` names the program.
    pub(crate) async fn start(replicas: &[SocketAddr]) -> Self {
        let program = std::env::var_os("ROWLOCK_ENVOY")
            .expect("ROWLOCK_ENVOY names Envoy: deploy/local/test faults installs it");
        let address = free_address();
        let child = Command::new(program)
            .args(["--config-yaml", &config(address, replicas), "--log-level", "warning"])
            // Others on this machine may run one too.
            .args(["--use-dynamic-base-id", "--concurrency", "1"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let envoy = Self { address, child };
        eventually(async || tokio::net::TcpStream::connect(address).await.is_ok()).await;
        envoy
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn socket(address: SocketAddr) -> serde_json::Value {
    serde_json::json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

/// JSON is YAML too.
fn config(address: SocketAddr, replicas: &[SocketAddr]) -> String {
    let endpoints: Vec<_> = replicas
        .iter()
        .map(|replica| serde_json::json!({ "endpoint": { "address": socket(*replica) } }))
        .collect();
    let extension = |name: &str| format!("type.googleapis.com/envoy.extensions.{name}");
    let http2 = serde_json::json!({
        "@type": extension("upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": { "http2_protocol_options": {} },
    });
    let router = serde_json::json!({ "@type": extension("filters.http.router.v3.Router") });
    let manager = serde_json::json!({
        "@type": extension("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "booking",
        "codec_type": "HTTP2",
        "route_config": { "virtual_hosts": [{
            "name": "booking",
            "domains": ["*"],
            "routes": [{
                "match": { "prefix": "/" },
                "route": {
                    "cluster": "booking",
                    "timeout": "0s",
                    "retry_policy": { "retry_on": "connect-failure,refused-stream", "num_retries": 2 },
                },
            }],
        }] },
        "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": router }],
    });
    serde_json::json!({ "static_resources": {
        "listeners": [{
            "address": socket(address),
            "filter_chains": [{ "filters": [{
                "name": "envoy.filters.network.http_connection_manager", "typed_config": manager,
            }] }],
        }],
        "clusters": [{
            "name": "booking",
            "type": "STATIC",
            "connect_timeout": "1s",
            "lb_policy": "LEAST_REQUEST",
            "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2 },
            "health_checks": [{
                "timeout": "1s",
                "interval": "0.5s",
                "no_traffic_interval": "0.5s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "grpc_health_check": {},
            }],
            "load_assignment": { "cluster_name": "booking", "endpoints": [{ "lb_endpoints": endpoints }] },
        }],
    } })
    .to_string()
}
