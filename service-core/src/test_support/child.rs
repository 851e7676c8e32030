//! A service's program as a process of its own. Whatever it logs is searched for secrets, however it ends.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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

/// Reads a log to its end, and tells where it says to listen: for gRPC, and for HTTP.
fn read_log(stderr: ChildStderr, listening: &mpsc::Sender<(SocketAddr, SocketAddr)>) -> String {
    let (mut stderr, mut log) = (BufReader::new(stderr), Vec::new());
    loop {
        let start = log.len();
        if stderr.read_until(b'\n', &mut log).expect("its log is readable") == 0 {
            return String::from_utf8_lossy(&log).into_owned();
        }
        if let Some(addresses) = log.get(start..).and_then(addresses) {
            // Only the start waits for them.
            let _ = listening.send(addresses);
        }
    }
}

/// The addresses of a line that says where the program listens.
fn addresses(line: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let line: serde_json::Value = serde_json::from_slice(line).ok()?;
    let address = |name| line.get(name)?.as_str()?.parse().ok();
    line.get("message").filter(|message| *message == "listening")?;
    address("grpc_addr").zip(address("http_addr"))
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
    /// If it ends before, or does not listen within a minute.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
        let stderr = child.stderr.take().expect("it is piped");
        let (listening, listens) = mpsc::channel();
        let reader = std::thread::spawn(move || read_log(stderr, &listening));
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut serving = Self { child, grpc: nowhere, http: nowhere, reader: Some(reader) };
        // From here on it is killed if it does not.
        let Ok((grpc, http)) = listens.recv_timeout(PATIENCE) else {
            let _ = serving.child.kill();
            panic!("it does not listen: {}", serving.searched_log());
        };
        (serving.grpc, serving.http) = (grpc, http);
        serving
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
    /// If it does not end within a minute, or the log tells a secret.
    #[must_use]
    pub fn ended(mut self) -> (ExitStatus, String) {
        let began = Instant::now();
        let status = loop {
            match self.child.try_wait().expect("it is a child") {
                Some(status) => break status,
                None if began.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(5)),
                None => {
                    let _ = self.child.kill();
                    panic!("it does not end: {}", self.searched_log());
                }
            }
        };
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
        let log = self.reader.take().map(|reader| reader.join().expect("its log is readable"));
        let log = log.unwrap_or_default();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "a token in the log")]
    fn the_log_of_a_program_that_never_listens_is_searched_too() {
        let _ = Serving::start(program("sh", &["-c", "echo eyJhbGciOiJFUzI1NiJ9 >&2"]));
    }

    #[test]
    fn a_log_is_read_to_its_end_whatever_bytes_are_in_it() {
        let listens = r#"{"message":"listening","grpc_addr":"127.0.0.1:1","http_addr":"127.0.0.1:2"}"#;
        let script = format!("echo '{listens}' >&2; printf '\\377\\n' >&2; echo the end >&2");
        let serving = Serving::start(program("sh", &["-c", &script]));
        assert_eq!((serving.grpc.port(), serving.http.port()), (1, 2));
        let (status, log) = serving.ended();
        assert!(status.success() && log.ends_with("the end\n"), "{log}");
    }
}
