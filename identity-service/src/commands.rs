//! What the binary does, one function for each command.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, bail};
use service_core::config::{ConfigErrors, secret};
use service_core::health::{self, HealthArgs};
use service_core::lifecycle::Shutdown;
use service_core::secret::Secret;
use service_core::server::Listeners;
use service_core::trace::Flush;
use service_core::validation::Violations;
use service_core::{database, migrate, telemetry};

use crate::MIGRATOR;
use crate::accounts::{
    AdminCreated, ClientSecret, NewAdmin, create_admin, create_first_service_account,
    take_back_first_service_account,
};
use crate::cli::{AdminCreateArgs, KeysCommand, MigrateArgs, ServeArgs, ServiceAccountCreateArgs};
use crate::config::DEFAULTS;
use crate::domain::{Email, NewPassword, display_name};
use crate::hashing::PasswordHasher;
use crate::serve::{self, APPLICATION_NAME};
use crate::signing::KeyDir;
use crate::sources::Sources;
use crate::whole_file;

/// Of `service-account create --dir`.
const CLIENT_ID_FILE: &str = "client-id";

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// What is wrong with the configuration, the keys, the addresses or the schema.
pub async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let config = args.check()?;
    telemetry::init(&config.telemetry)?;
    telemetry::log_panics();
    let shutdown = Shutdown::on_signals()?;
    let listeners = Listeners::bind(&config.server).await?;
    let flush = Flush::within(shutdown.token(), config.server.drain_grace);
    let served = Box::pin(serve::serve(config, listeners, Sources::system(), shutdown.token())).await;
    flush.finish().await;
    served
}

/// Brings the schema up to date.
///
/// # Errors
/// If the database cannot be reached, or has a schema that this program does not know.
pub async fn migrate(args: MigrateArgs) -> anyhow::Result<()> {
    let mut errors = ConfigErrors::default();
    let database = args.database.check(&mut errors);
    let telemetry = args.telemetry.check(&mut errors);
    errors.finish()?;
    telemetry::init(&telemetry)?;
    let migrated = migrate::migrate(&database, &MIGRATOR).await?;
    match migrated.applied {
        0 => say("the schema is up to date"),
        n => say(&format!("{n} migration(s) applied")),
    }
}

/// Makes or activates a key.
///
/// # Errors
/// What is wrong with the directory.
pub fn keys(command: &KeysCommand) -> anyhow::Result<()> {
    match command {
        KeysCommand::Generate { dir, algorithm, activate, if_none, allow_group_read } => {
            let keys = KeyDir::new(dir, *allow_group_read);
            if *if_none && keys.has_keys()? {
                return say(&format!("{} has keys already", dir.display()));
            }
            let key = keys.generate(*algorithm, *activate)?;
            let signs = keys.load()?.signing_kid() == key.kid();
            let role = if signs { "it signs" } else { "it is published; `keys activate` lets it sign" };
            say(&format!("{}: {role}", dir.join(format!("{}.pem", key.kid())).display()))
        }
        KeysCommand::Activate { dir, kid, allow_group_read } => {
            KeyDir::new(dir, *allow_group_read).activate(kid)?;
            say(&format!("{kid} signs from the next start on"))
        }
    }
}

/// Makes an administrator.
///
/// # Errors
/// If the e-mail or password breaks rules, the address is another user's, or the database fails.
pub async fn admin_create(args: AdminCreateArgs) -> anyhow::Result<()> {
    let mut errors = ConfigErrors::default();
    let database = args.database.check(&mut errors);
    let hashing = args.hashing.check(&mut errors);
    let telemetry = args.telemetry.check(&mut errors);
    let name = "the password (--password-file, ROWLOCK_ADMIN_PASSWORD)";
    let given = args.password.is_some() || args.password_file.is_some();
    let password = secret(name, args.password, args.password_file.as_deref(), &mut errors);
    errors.finish()?;
    telemetry::init(&telemetry)?;
    let password = match password {
        Some(password) => password,
        None if given => bail!("{name} is missing"),
        None => password_from_stdin()?,
    };

    let mut violations = Violations::default();
    let email = Email::read(&mut violations, "email", args.email.expose());
    let password = NewPassword::read(&mut violations, "password", password.expose(), &email);
    let display_name = display_name(&mut violations, "display-name", &args.display_name);
    violations.finish()?;

    let sources = Sources::system();
    let hasher = PasswordHasher::new(hashing.cost, hashing.limits, sources.entropy.clone())?;
    let pool = database::pool(&database, APPLICATION_NAME).await;
    migrate::check_schema(&pool, &MIGRATOR).await?;
    let admin = NewAdmin { email, password, display_name };
    let created = create_admin(&pool, &hasher, &sources, admin, args.reset).await?;
    pool.close().await;
    match created {
        AdminCreated::Created(id) => say(&format!("administrator {id} created")),
        AdminCreated::Reset(id) => say(&format!("user {id} is an administrator with the new password")),
        AdminCreated::Unchanged(id) => {
            say(&format!("administrator {id} exists already and was left as is; --reset sets the password"))
        }
        AdminCreated::Taken(id) => {
            bail!(
                "user {id} has this e-mail address and is no active administrator; --reset makes the user one"
            )
        }
    }
}

/// Makes a service account and tells its credentials: as variables that a shell and a Secret can be made of, or as files.
///
/// # Errors
/// If the name breaks rules, the files cannot be written, or the database fails.
pub async fn service_account_create(args: ServiceAccountCreateArgs) -> anyhow::Result<()> {
    let mut errors = ConfigErrors::default();
    let database = args.database.check(&mut errors);
    let telemetry = args.telemetry.check(&mut errors);
    errors.finish()?;
    telemetry::init(&telemetry)?;
    let mut violations = Violations::default();
    let display_name = display_name(&mut violations, "display-name", &args.display_name);
    violations.finish()?;
    if let Some(dir) = &args.dir {
        // Before the account: one whose secret could not be kept would be of no use.
        whole_file::make_private_folder(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        if dir.join(CLIENT_ID_FILE).exists() {
            return say(&format!("{} has credentials already", dir.display()));
        }
    }

    let pool = database::pool(&database, APPLICATION_NAME).await;
    migrate::check_schema(&pool, &MIGRATOR).await?;
    let sources = Sources::system();
    let (account, secret) = create_first_service_account(&pool, &sources, display_name).await?;
    let kept = match &args.dir {
        Some(dir) => keep_credentials(dir, &account.client_id, &secret),
        None => say(&format!(
            "ROWLOCK_IDENTITY_CLIENT_ID={}\nROWLOCK_IDENTITY_CLIENT_SECRET={}",
            account.client_id,
            secret.expose()
        )),
    };
    if let Err(error) = &kept {
        // Nobody has its secret, and the next try makes another one.
        let taken_back = take_back_first_service_account(&pool, &sources, account.id).await;
        taken_back.with_context(|| format!("{error:#}, and service account {} remains", account.id))?;
    }
    pool.close().await;
    kept?;
    let Some(dir) = &args.dir else { return Ok(()) };
    say(&format!("{}: the credentials of service account {}", dir.display(), account.client_id))
}

fn keep_credentials(dir: &Path, client_id: &str, secret: &ClientSecret) -> anyhow::Result<()> {
    // The id comes last: where it is, the secret is.
    for (name, text) in [("client-secret", secret.expose()), (CLIENT_ID_FILE, client_id)] {
        whole_file::write(dir, name, text.as_bytes(), 0o600)
            .with_context(|| format!("{} cannot be written", dir.join(name).display()))?;
    }
    Ok(())
}

fn password_from_stdin() -> anyhow::Result<Secret> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        // What is typed would be seen.
        bail!("give the password with --password-file or ROWLOCK_ADMIN_PASSWORD, or pipe it in");
    }
    let mut line = String::new();
    stdin.lock().read_line(&mut line).context("the password cannot be read from standard input")?;
    Ok(Secret::new(line.trim_end_matches(['\n', '\r'])))
}

/// Asks a server whether it serves.
///
/// # Errors
/// If it does not, or does not answer in time.
pub async fn health(args: HealthArgs) -> anyhow::Result<()> {
    health::ask(args, DEFAULTS.grpc.port()).await?;
    say("serving")
}

/// Writes a line to standard output.
fn say(line: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{line}").context("standard output cannot be written")
}
