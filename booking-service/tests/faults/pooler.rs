//! Fault 7: PgBouncer in between, in transaction mode.

use std::process::{Child, Command, Stdio};

use service_core::test_support::{TestServer, run};

use crate::child::serve;
use crate::report::{self, Counts};
use crate::stage::{Stage, free_address};
use crate::system::eventually;

struct PgBouncer(Child, std::path::PathBuf);

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

/// The folder of the libraries that were unpacked with the program; nothing where it is installed.
fn libraries_beside(program: &std::path::Path) -> std::path::PathBuf {
    let folder = program.ancestors().nth(2).unwrap().join("lib");
    let found = std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    found.into_iter().find(|path| path.to_string_lossy().ends_with("-linux-gnu")).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a fault: deploy/local/test faults"]
async fn a_pooler_that_keeps_settings_from_sessions_is_refused_at_the_start_with_a_clear_line() {
    let program = std::env::var_os("ROWLOCK_PGBOUNCER")
        .expect("ROWLOCK_PGBOUNCER names PgBouncer: deploy/local/test faults unpacks it");
    let libraries = libraries_beside(std::path::Path::new(&program));
    for ignored in ["", "ignore_startup_parameters = options,extra_float_digits\n"] {
        let mut stage = Stage::empty(TestServer::start(&[])).await;
        let address = free_address();
        let (before, _) = stage.database.url.rsplit_once('@').unwrap();
        let password = before.rsplit_once(':').unwrap().1.to_owned();
        let folder = std::env::temp_dir().join(format!("rowlock-pgbouncer-{}", rand::random::<u32>()));
        std::fs::create_dir(&folder).unwrap();
        let config = folder.join("pgbouncer.ini");
        std::fs::write(
            &config,
            format!(
                "[databases]\n* = host=127.0.0.1 port={} password={password}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                 listen_port = {}\nauth_type = any\npool_mode = transaction\nunix_socket_dir =\n{ignored}",
                stage.server.port(),
                address.port(),
            )
            // Whoever comes is the superuser: it listens on loopback, for the time of this test.
            .replace("password=", "user=postgres password="),
        )
        .unwrap();
        // PgBouncer refuses to run as root.
        let user =
            std::fs::metadata("/proc/self").map(|me| std::os::unix::fs::MetadataExt::uid(&me)).unwrap();
        let mut command = if user == 0 {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
            std::os::unix::fs::chown(&folder, Some(65534), Some(65534)).unwrap();
            std::os::unix::fs::chown(&config, Some(65534), Some(65534)).unwrap();
            command
        } else {
            Command::new(&program)
        };
        let child = command
            .arg(&config)
            .env("LD_LIBRARY_PATH", &libraries)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let _pooler = PgBouncer(child, folder);
        eventually(async || tokio::net::TcpStream::connect(address).await.is_ok()).await;
        stage.through(address);
        let (code, _, log) = tokio::task::spawn_blocking({
            let (url, identity) = (stage.database_url.clone(), stage.identity.address);
            move || run(serve(&url, identity), "")
        })
        .await
        .unwrap();
        let line = log.lines().last().unwrap_or_default();
        assert_eq!(code, 1, "{log}");
        assert!(line.contains("PgBouncer"), "{log}");
        assert!(!log.contains(&password), "the database's password");
        report::tell(
            "7, PgBouncer in transaction mode",
            1,
            &Counts::default(),
            &format!("refused at the start: {line}"),
        );
    }
}
