//! A service's program as a process of its own. Whatever it logs is searched for secrets, however it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::assert_keeps_secrets;

/// For whatever takes moments unless something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program, without any option from this process's environment.
#[must_use]
pub fn program(path: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ROWLOCK_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs it to its end, with `input` as standard input: exit code, standard output, standard error.
///
/// # Panics
/// If it does not end within a minute, is ended by a signal, or tells a secret in its log.
pub fn run(mut command: Command, input: &str) -> (i32, String, String) {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = piped.expect("the program starts");
    let pid = child.id();
    if let Some(mut stdin) = child.stdin.take() {
        // It may end without reading.
        let _ = stdin.write_all(input.as_bytes());
    }
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || ended.send(child.wait_with_output()));
    let Ok(output) = end.recv_timeout(PATIENCE) else {
        signal(pid, "-KILL");
        panic!("{command:?} did not end");
    };
    let Output { status, stdout, stderr } = output.expect("its output is readable");
    let text = |bytes| String::from_utf8(bytes).expect("it writes UTF-8");
    let (out, err) = (text(stdout), text(stderr));
    assert_keeps_secrets(&err);
    (status.code().expect("no signal ended it"), out, err)
}

fn signal(pid: u32, signal: &str) {
    let sent = Command::new("kill").args([signal, &pid.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill {signal} {pid}");
}

/// A running `serve`. Killed on drop.
#[derive(Debug)]
pub struct Serving {
    child: Child,
    /// Where calls come in.
    pub grpc: SocketAddr,
    /// Where its health and metrics are.
    pub http: SocketAddr,
    /// Reads the log to its end.
    reader: Option<JoinHandle<String>>,
}

impl Serving {
    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// If it ends before.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut log = String::new();
        let line = loop {
            let start = log.len();
            let read = stderr.read_line(&mut log).expect("its log is readable");
            assert!(read > 0, "it ended: {log}");
            let line: serde_json::Value =
                serde_json::from_str(log.get(start..).unwrap_or_default()).unwrap_or_default();
            if line.get("message").is_some_and(|message| message == "listening") {
                break line;
            }
        };
        let address = |name: &str| {
            let text = line.get(name).and_then(serde_json::Value::as_str);
            text.and_then(|text| text.parse().ok()).expect("it says where it listens")
        };
        let (grpc, http) = (address("grpc_addr"), address("http_addr"));
        let reader = std::thread::spawn(move || {
            let _ = stderr.read_to_string(&mut log);
            log
        });
        Self { child, grpc, http, reader: Some(reader) }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, such as `-TERM`.
    ///
    /// # Panics
    /// If there is no such process any more.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for the end: the exit status and the log.
    ///
    /// # Panics
    /// If the log tells a secret.
    #[must_use]
    pub fn ended(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().expect("it is a child");
        (status, self.searched_log())
    }

    /// Sends a signal and waits for the end.
    ///
    /// # Panics
    /// If there is no such process any more, or the log tells a secret.
    pub fn stop(self, name: &str) -> (ExitStatus, String) {
        self.signal(name);
        self.ended()
    }

    fn searched_log(&mut self) -> String {
        let log = self.reader.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        assert_keeps_secrets(&log);
        log
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Two panics at once would end all tests.
        if !std::thread::panicking() {
            self.searched_log();
        }
    }
}
