//! The binary as a process of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use service_core::test_support::{TestDatabase, assert_keeps_secrets};

use crate::server::PATIENCE;

/// The binary without any option from this process's environment.
pub(crate) fn binary(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_identity-service"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ROWLOCK_")) {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}

/// Runs it to its end, with `input` as standard input: exit code, standard output, standard error.
pub(crate) fn run(mut command: Command, input: &str) -> (i32, String, String) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    // It may end without reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || ended.send(child.wait_with_output()));
    let Ok(output) = end.recv_timeout(PATIENCE) else {
        signal(pid, "-KILL");
        panic!("{command:?} did not end");
    };
    let Output { status, stdout, stderr } = output.unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn signal(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// A running `serve`. Killed on drop.
pub(crate) struct Serving {
    child: Child,
    pub(crate) grpc: SocketAddr,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Serving {
    /// Starts it and waits until it listens.
    pub(crate) fn start(database: &TestDatabase, keys: &str, log_filter: &str) -> Self {
        Self::with(database, keys, &["--log-filter", log_filter])
    }

    /// With these arguments besides what it needs.
    pub(crate) fn with(database: &TestDatabase, keys: &str, arguments: &[&str]) -> Self {
        let mut child = binary(&["serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"])
            .args(["--keys-dir", keys, "--drain-grace", "10s"])
            .args(arguments)
            .env("ROWLOCK_DATABASE_URL", &database.url)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut log = String::new();
        let grpc = loop {
            let start = log.len();
            assert!(stderr.read_line(&mut log).unwrap() > 0, "it ended: {log}");
            let line: serde_json::Value = serde_json::from_str(&log[start..]).unwrap_or_default();
            if line["message"] == "listening" {
                break line["grpc_addr"].as_str().unwrap().parse().unwrap();
            }
        };
        let log = Arc::new(Mutex::new(log));
        let reader = std::thread::spawn({
            let log = log.clone();
            move || {
                let mut rest = String::new();
                let _ = stderr.read_to_string(&mut rest);
                log.lock().unwrap().push_str(&rest);
            }
        });
        Self { child, grpc, log, reader: Some(reader) }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn stop(mut self, name: &str) -> (ExitStatus, String) {
        signal(self.child.id(), name);
        let status = self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        let log = self.log.lock().unwrap().clone();
        assert_keeps_secrets(&log);
        (status, log)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
