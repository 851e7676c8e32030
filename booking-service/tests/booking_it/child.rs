//! The binary as a process of its own.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use service_core::test_support::{TEST_AUDIENCE, TEST_ISSUER, assert_keeps_secrets};

/// The binary without any option from this process's environment.
pub(crate) fn binary(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_booking-service"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ROWLOCK_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs it to its end: exit code, standard output, standard error.
pub(crate) fn run(mut command: Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// `serve` on free ports.
pub(crate) fn serve(database_url: &str, identity: SocketAddr) -> Command {
    let anywhere = "127.0.0.1:0".parse().unwrap();
    serve_on(anywhere, anywhere, database_url, identity)
}

/// `serve` on these addresses.
pub(crate) fn serve_on(
    grpc: SocketAddr,
    http: SocketAddr,
    database_url: &str,
    identity: SocketAddr,
) -> Command {
    let mut command = binary(&["serve"]);
    command
        .args(["--grpc-addr", &grpc.to_string(), "--http-addr", &http.to_string()])
        .args(["--token-issuer", TEST_ISSUER, "--token-audience", TEST_AUDIENCE])
        .args(["--drain-grace", "10s", "--identity-addr", &format!("http://{identity}")])
        .env("ROWLOCK_DATABASE_URL", database_url);
    command
}

/// A running `serve`. Killed on drop.
pub(crate) struct Serving {
    child: Child,
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Serving {
    /// Starts it and waits until it listens.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut log = String::new();
        let line = loop {
            let start = log.len();
            assert!(stderr.read_line(&mut log).unwrap() > 0, "it ended: {log}");
            let line: serde_json::Value = serde_json::from_str(&log[start..]).unwrap_or_default();
            if line["message"] == "listening" {
                break line;
            }
        };
        let address = |name: &str| line[name].as_str().unwrap().parse().unwrap();
        let (grpc, http) = (address("grpc_addr"), address("http_addr"));
        let log = Arc::new(Mutex::new(log));
        let reader = std::thread::spawn({
            let log = log.clone();
            move || {
                let mut rest = String::new();
                let _ = stderr.read_to_string(&mut rest);
                log.lock().unwrap().push_str(&rest);
            }
        });
        Self { child, grpc, http, log, reader: Some(reader) }
    }

    #[allow(dead_code, reason = "only the faults measure a process")]
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let killed = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }

    /// Waits for the end: the exit status and the log.
    pub(crate) fn ended(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        let log = self.log.lock().unwrap().clone();
        assert_keeps_secrets(&log);
        (status, log)
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn stop(self, signal: &str) -> (ExitStatus, String) {
        self.signal(signal);
        self.ended()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
