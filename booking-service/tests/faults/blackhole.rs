//! Fault 5: what is sent between a replica and its database disappears without a word.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use service_core::auth::Role;
use service_core::test_support::TestServer;
use tokio::time::sleep;
use tonic::Request;

use crate::proving::{DEFAULT_DEADLINE, Ends, Ordeal};
use crate::report;
use crate::stage::{Stage, ask_for_somebody, scale};

/// Within which there are seats again when the network is back: a session that has got no answer is given up 2 s after the
/// time that its statement has, and opening one takes 3 s at most.
const HEALED: Duration = Duration::from_secs(15);

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
    /// `None` where the machine does not allow it. A number may be somebody else's, so others are tried.
    fn lay() -> Option<Self> {
        (0..10).find_map(|_| Self::lay_by(rand::random_range(1..=250)))
    }

    fn lay_by(number: u8) -> Option<Self> {
        let is_taken = Command::new("ip").args(["-o", "addr"]).output().ok()?.stdout;
        if String::from_utf8_lossy(&is_taken).contains(&format!(" 10.213.{number}.")) {
            return None;
        }
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
        report::skipped("5, blackhole", "this machine gives no network namespace, or has no iptables");
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
        inside.args(DEFAULT_DEADLINE);
        *command = inside;
    });
    stage.add_replicas(2).await;
    let crowd = stage.crowd(stage.ways()).await;
    let event = crowd.events[2].clone();
    let ordeal = Ordeal::begin(&stage, crowd);
    let service = stage.caller(Role::Service, stage.ways()[0].clone());
    let (mut silences, mut healed, mut ends) = (Vec::new(), Duration::ZERO, Ends::default());
    for round in 0..scale() {
        sleep(Duration::from_secs(1)).await;
        let silence = Duration::from_secs(if round % 5 == 4 { 60 } else { 10 });
        silences.push(silence);
        network.swallow(port, "-A");
        let began = Instant::now();
        let callers = (0..8).map(|_| async {
            let mut ends = Ends::default();
            // Those that it would be over for in the middle of are left out.
            while began.elapsed() + Duration::from_secs(4) < silence {
                ends.extend([Ends::of_one(&service, &event).await]);
            }
            ends
        });
        ends.extend(join_all(callers).await);
        sleep(silence.saturating_sub(began.elapsed())).await;
        network.swallow(port, "-D");
        let back = Instant::now();
        stage.ready().await;
        crate::system::eventually(async || {
            let mut request = Request::new(ask_for_somebody(&event));
            request.set_timeout(Duration::from_secs(1));
            service.registrations().register(request).await.is_ok()
        })
        .await;
        healed = healed.max(back.elapsed());
    }
    let figures = format!(", silent for {silences:?}, {}, seats again after {healed:.1?}", ends.tell());
    ordeal.prove_with(&stage, "5, blackhole between replicas and database", silences.len(), &figures).await;
    ends.assert_in_time();
    assert!(healed <= HEALED, "{healed:?}");
    stage.end();
}
