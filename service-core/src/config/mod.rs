//! Options, from flags and the environment, checked together so that every error is reported in one run.
//!
//! A service flattens [`DatabaseArgs`], [`ServerArgs`] and [`TelemetryArgs`] into its clap command, calls `check` on each
//! with one [`ConfigErrors`], and ends with [`ConfigErrors::finish`]. Options that can be wrong are [`Checked`], which
//! clap cannot fail to parse; a secret option `X` has a sibling `X_FILE`, see [`secret`].

mod args;
mod checked;
mod environment;
mod tls;
mod traces;

pub use args::{
    DatabaseArgs, DatabaseConfig, DatabaseUrlInvalid, LogFormat, ServerArgs, ServerConfig, ServerDefaults,
    TelemetryArgs, TelemetryConfig, UnknownLogFormat,
};
pub use checked::{Checked, ConfigErrors, NotAPeriod, Period, secret};
pub use environment::unknown_variables;
pub use tls::TlsArgs;
pub use traces::TracesArgs;

#[cfg(test)]
mod tests;
