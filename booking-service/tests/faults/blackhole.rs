//! Fault 5: what is sent between a replica and its database disappears without a word.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::{Duration, Instant};

use rowlock_proto::booking::v1 as pb;
use service_core::auth::Role;
use service_core::test_support::TestServer;
use tokio::time::sleep;
use tonic::Request;
use uuid::Uuid;

use crate::acts::ask;
use crate::proving::Ordeal;
use crate::report::{self, Counts};
use crate::stage::{Stage, scale};

/// How much later than its deadline a call may end.
const GRACE: Duration = Duration::from_millis(500);

/// A network namespace of the test's own, with a cable to this machine's. Gone when it is dropped.
struct Network {
    name: String,
    here: IpAddr,
    there: IpAddr,
}

fn ip(arguments: &str) -> bool {
    Command::new("ip").args(arguments.split(' ')).output().is_ok_and(|done| done.status.success())
}

impl Network {
    /// `None` where the machine does not allow it.
    fn lay() -> Option<Self> {
        let number: u8 = rand::random_range(1..=250);
        let name = format!("rowlock-{number}-{}", std::process::id());
        let (cable, other) = (format!("rl{number}a"), format!("rl{number}b"));
        let here = IpAddr::V4(Ipv4Addr::new(10, 213, number, 1));
        let there = IpAddr::V4(Ipv4Addr::new(10, 213, number, 2));
        let network = Self { name: name.clone(), here, there };
        let laid = ip(&format!("netns add {name}"))
            && ip(&format!("link add {cable} type veth peer name {other} netns {name}"))
            && ip(&format!("addr add {here}/30 dev {cable}"))
            && ip(&format!("link set {cable} up"))
            && ip(&format!("-n {name} addr add {there}/30 dev {other}"))
            && ip(&format!("-n {name} link set {other} up"))
            && ip(&format!("-n {name} link set lo up"));
        (laid && network.iptables("-L")).then_some(network)
    }

    fn iptables(&self, arguments: &str) -> bool {
        let command = format!("netns exec {} iptables {arguments}", self.name);
        ip(&command)
    }

    /// Drops everything to and from the port from now on, or no longer.
    fn swallow(&self, port: u16, what: &str) {
        assert!(self.iptables(&format!("{what} OUTPUT -p tcp --dport {port} -j DROP")));
        assert!(self.iptables(&format!("{what} INPUT -p tcp --sport {port} -j DROP")));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The cable goes with it.
        ip(&format!("netns del {}", self.name));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a fault: deploy/local/test faults"]
async fn a_database_that_falls_silent_is_waited_for_until_the_deadline_and_found_again() {
    let Some(network) = Network::lay() else {
        report::tell(
            "5, blackhole",
            0,
            &Counts::default(),
            "SKIPPED, this machine gives no network namespace",
        );
        return;
    };
    let listen = format!("listen_addresses=127.0.0.1,{}", network.here);
    let mut stage = Stage::at(TestServer::start(&[&listen]), network.here).await;
    let port = stage.server.port();
    stage.through((network.here, port).into());
    stage.host = network.there;
    let name = network.name.clone();
    stage.started_with(move |_, command| {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &name]).arg(command.get_program()).args(command.get_args());
        for (variable, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(variable, value),
                None => inside.env_remove(variable),
            };
        }
        *command = inside;
    });
    stage.add_replicas(2).await;
    let crowd = stage.crowd(stage.ways()).await;
    let event = crowd.events[2].clone();
    let ordeal = Ordeal::begin(&stage, crowd);
    let service = stage.caller(Role::Service, stage.ways()[0].clone());
    let (mut silences, mut latest, mut healed) = (Vec::new(), Duration::ZERO, Duration::ZERO);
    for round in 0..scale() {
        sleep(Duration::from_secs(1)).await;
        let silence = Duration::from_secs(if round % 5 == 4 { 60 } else { 10 });
        silences.push(silence);
        network.swallow(port, "-A");
        let began = Instant::now();
        while began.elapsed() < silence {
            let mut request = Request::new(pb::RegisterRequest {
                user_id: Uuid::from_u128(rand::random()).to_string(),
                ..ask(&event)
            });
            let deadline = Duration::from_millis(rand::random_range(200..2_000));
            request.set_timeout(deadline);
            let called = Instant::now();
            // Those that are in flight when it begins may have their answer already.
            let _ = service.registrations().register(request).await;
            latest = latest.max(called.elapsed().saturating_sub(deadline));
        }
        network.swallow(port, "-D");
        let back = Instant::now();
        stage.ready().await;
        crate::system::eventually(async || {
            let mut request = Request::new(pb::RegisterRequest {
                user_id: Uuid::from_u128(rand::random()).to_string(),
                ..ask(&event)
            });
            request.set_timeout(Duration::from_secs(1));
            service.registrations().register(request).await.is_ok()
        })
        .await;
        healed = healed.max(back.elapsed());
    }
    assert!(latest <= GRACE, "{latest:?} after its deadline");
    let figures = format!(
        ", silent for {silences:?}, calls at most {latest:.0?} after their deadlines, seats again after {healed:.1?}"
    );
    ordeal.prove_with(&stage, "5, blackhole between replicas and database", silences.len(), &figures).await;
    stage.end();
}
