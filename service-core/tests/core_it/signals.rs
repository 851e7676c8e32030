//! How a process ends that is asked to.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use service_core::lifecycle::Shutdown;

use crate::bench::until_left_alone;

/// Not a test of its own: what the test below runs in a process of its own.
#[tokio::test]
#[ignore = "waits for signals"]
async fn waits_for_signals() {
    let shutdown = Shutdown::on_signals().unwrap();
    println!("\nlistening");
    let asked = shutdown.token();
    tokio::select! {
        () = asked.cancelled() => {}
        () = until_left_alone() => return,
    }
    println!("\ndraining");
    until_left_alone().await;
}

fn send(signal: &str, to: &Child) {
    assert!(Command::new("kill").args([signal, &to.id().to_string()]).status().unwrap().success());
}

#[test]
fn the_first_signal_drains_and_the_second_ends_the_process() {
    for (first, second, exit_code) in [("-TERM", "-TERM", 143), ("-INT", "-INT", 130), ("-TERM", "-INT", 130)]
    {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "signals::waits_for_signals", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // To wait for a process closes its input, which is not to end it before the signal does.
        let _input = process.stdin.take().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "listening"));
        send(first, &process);
        assert!(lines.any(|line| line.unwrap() == "draining"));
        send(second, &process);
        assert_eq!(process.wait().unwrap().code(), Some(exit_code), "{first} {second}");
    }
}
