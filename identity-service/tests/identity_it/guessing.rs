//! What an attacker learns from the time that an answer takes, and what a flood of guesses costs.

use std::time::{Duration, Instant};

use identity_service::MIGRATOR;
use identity_service::signing::{KeyDir, SigningAlgorithm};
use rowlock_proto::identity::v1::SignInRequest;
use rowlock_proto::identity::v1::auth_service_client::AuthServiceClient;
use service_core::test_support::TestCluster;
use tonic::transport::Endpoint;
use tonic::{Code, Request};

use crate::child::serve;
use crate::server::{PASSWORD, PATIENCE, TestServer, refusal};

const WRONG: &str = "violet tram 82";

/// How long each of `cases` takes in proportion to the first: medians over `rounds`, in each of which all take their
/// turn, so that whatever else slows the machine down slows all of them.
async fn proportions<const N: usize>(
    server: &TestServer,
    rounds: usize,
    cases: [(&str, &str); N],
) -> Vec<f64> {
    let mut samples = vec![Vec::new(); N];
    for round in 0..rounds {
        let mut times = [0.0; N];
        for turn in 0..N {
            let case = (turn + round) % N;
            let (email, password) = cases[case];
            let began = Instant::now();
            server.sign_in(email, password).await.unwrap_err();
            times[case] = began.elapsed().as_secs_f64();
        }
        for (samples, time) in samples.iter_mut().zip(times) {
            samples.push(time / times[0]);
        }
    }
    samples
        .iter_mut()
        .map(|samples| {
            samples.sort_by(f64::total_cmp);
            samples[samples.len() / 2]
        })
        .collect()
}

#[tokio::test]
async fn the_time_of_an_answer_does_not_tell_which_accounts_exist_or_are_active() {
    let server = TestServer::with(|config| {
        config.sign_in.account.free = u32::MAX;
        config.sign_in.address = None;
    })
    .await;
    server.sign_up("ada@example.org").await;
    server.sign_up("gone@example.org").await;
    server.deactivate("gone@example.org").await;
    let cases = [
        ("ada@example.org", WRONG),
        ("nobody@example.org", WRONG),
        ("gone@example.org", PASSWORD),
        ("gone@example.org", WRONG),
    ];
    let found = proportions(&server, 41, cases).await;
    // A hash more or less would halve or double the time at least.
    assert!(found.iter().all(|time| (0.75..1.33).contains(time)), "{found:?}");
}

#[tokio::test]
async fn the_time_of_an_answer_does_not_tell_which_of_the_paused_accounts_exist() {
    let server = TestServer::with(|config| {
        config.sign_in.account.free = 1;
        config.sign_in.address = None;
    })
    .await;
    server.sign_up("ada@example.org").await;
    server.sign_up("gone@example.org").await;
    server.deactivate("gone@example.org").await;
    let cases =
        [("ada@example.org", PASSWORD), ("nobody@example.org", PASSWORD), ("gone@example.org", PASSWORD)];
    for (email, _) in cases {
        server.sign_in(email, WRONG).await.unwrap_err();
    }
    let found = proportions(&server, 101, cases).await;
    assert!(found.iter().all(|time| (0.6..1.6).contains(time)), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_guesses_at_once_the_right_one_among_them_no_more_than_the_limit_are_answered() {
    let server = TestServer::with(|config| {
        config.sign_in.account.free = 5;
        config.sign_in.address = None;
    })
    .await;
    server.sign_up("ada@example.org").await;
    let guesses: Vec<_> = (0..100)
        .map(|n| {
            let mut auth = server.auth();
            let password = if n == 90 { PASSWORD.into() } else { format!("guess number {n}") };
            let request = SignInRequest { email: "ada@example.org".into(), password };
            tokio::spawn(async move { auth.sign_in(request).await })
        })
        .collect();
    let (mut wrong, mut right) = (0, 0);
    for guess in guesses {
        match guess.await.unwrap() {
            Ok(_) => right += 1,
            Err(status) => match refusal(&status).1.as_str() {
                "CREDENTIALS_INVALID" => wrong += 1,
                // One account has a part of the places where passwords wait to be judged.
                "OVERLOADED" => {}
                reason => assert_eq!(reason, "TOO_MANY_ATTEMPTS"),
            },
        }
    }
    // Whoever has the password ends the count, and it begins anew.
    assert!(if right == 0 { wrong == 5 } else { (5..=10).contains(&wrong) }, "{right} right, {wrong} wrong");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guess_counts_though_its_caller_goes_away_before_it_is_answered() {
    let server = TestServer::with(|config| config.hashing.cost.passes = 10).await;
    server.sign_up("ada@example.org").await;
    let pool = server.database.pool(1);
    let counted = async || {
        let count = "SELECT count(*) FROM sign_in_failures WHERE scope = 'account'";
        sqlx::query_scalar::<_, i64>(count).fetch_one(&pool).await.unwrap() > 0
    };
    let until_it_counts = async {
        // The password is not being judged yet where the machine takes longer than this to find the account.
        for patience in (30..).step_by(10) {
            let mut guess =
                Request::new(SignInRequest { email: "ada@example.org".into(), password: WRONG.into() });
            guess.set_timeout(Duration::from_millis(patience));
            let code = server.auth().sign_in(guess).await.unwrap_err().code();
            assert!([Code::DeadlineExceeded, Code::Cancelled].contains(&code), "{code:?}");
            let until = Instant::now() + Duration::from_secs(1);
            while Instant::now() < until {
                if counted().await {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, until_it_counts).await.expect("it counts");
}

/// The most memory that a process has had, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_guesses_takes_the_memory_of_the_hashes_that_run_and_not_of_those_that_wait() {
    let database = TestCluster::database("identity", &MIGRATOR).await;
    let keys = tempfile::tempdir().unwrap();
    KeyDir::new(keys.path(), false).generate(SigningAlgorithm::Es256, false).unwrap();
    let serving = serve(
        &database,
        keys.path().to_str().unwrap(),
        &["--log-filter", "info", "--password-hash-queue", "1000"],
    );
    let channel = Endpoint::from_shared(format!("http://{}", serving.grpc)).unwrap().connect().await.unwrap();
    let before = peak_kib(serving.pid());
    let guesses: Vec<_> = (0..200)
        .map(|n| {
            let mut auth = AuthServiceClient::new(channel.clone());
            let request = SignInRequest { email: format!("user{n}@example.org"), password: WRONG.into() };
            tokio::spawn(async move { auth.sign_in(request).await.unwrap_err() })
        })
        .collect();
    for guess in guesses {
        let reason = refusal(&guess.await.unwrap()).1;
        assert!(["CREDENTIALS_INVALID", "TOO_MANY_ATTEMPTS"].contains(&reason.as_str()), "{reason}");
    }
    let after = peak_kib(serving.pid());
    println!("VmHWM: {before} KiB before, {after} KiB after 200 guesses at once");
    let threads = std::thread::available_parallelism().unwrap().get() as u64;
    // Twice what the hashes need, and as much again as a service may need for 200 calls.
    assert!(after - before < threads * 2 * 19_456 + 65_536, "{before} KiB, then {after} KiB");
}
