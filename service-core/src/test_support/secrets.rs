//! What a log must never hold.

/// Asserts that a log holds no access token, no bearer, no refresh or reset token, no service account's secret, no password
/// within a URL, no private key, and nobody's e-mail address.
///
/// # Panics
/// With the line, if it does.
pub fn assert_keeps_secrets(log: &str) {
    for line in log.lines() {
        if let Some(what) = secret_in(line) {
            panic!("{what} in the log: {line}");
        }
    }
}

fn secret_in(line: &str) -> Option<&'static str> {
    // Every JWT begins with a quoted brace in base64.
    if line.contains("eyJ") {
        return Some("a token");
    }
    if line.to_lowercase().contains("bearer ") {
        return Some("a bearer");
    }
    if ["rowlock_refresh_", "rowlock_reset_", "rowlock_secret_"].iter().any(|prefix| line.contains(prefix)) {
        return Some("what proves somebody");
    }
    if line.contains("PRIVATE KEY") {
        return Some("a private key");
    }
    line.split(|c: char| c.is_whitespace() || "\"'<>(),;=".contains(c)).find_map(|word| {
        let (before, after) = word.split_once('@')?;
        if let Some((_, user)) = before.split_once("://") {
            let password = user.split_once(':').map_or("", |(_, password)| password);
            // What a URL has to look like is told so.
            let is_pattern = user == "user:password" && after.starts_with("host:");
            let is_shown = !password.is_empty() && !password.contains('*') && !is_pattern;
            return is_shown.then_some("a password");
        }
        let domain = after.trim_end_matches(['.', ':']);
        let address = !before.is_empty() && domain.split_once('.').is_some_and(|(_, top)| !top.is_empty());
        address.then_some("an e-mail address")
    })
}

#[cfg(test)]
mod tests {
    use super::secret_in;

    #[test]
    fn secrets_are_found_and_what_looks_a_little_like_them_is_not() {
        for (line, what) in [
            ("token=eyJhbGciOiJFUzI1NiJ9.e30.c2ln", "a token"),
            ("authorization: Bearer abc", "a bearer"),
            ("postgres://rowlock:hunter2@db:5432/booking", "a password"),
            ("postgres://rowlock:password@db:5432/booking", "a password"),
            ("{\"message\":\"no user ada@example.com\"}", "an e-mail address"),
            ("reset_token: rowlock_reset_AAAA", "what proves somebody"),
            ("-----BEGIN PRIVATE KEY-----", "a private key"),
        ] {
            assert_eq!(secret_in(line), Some(what), "{line}");
        }
        for line in [
            "postgres://rowlock@db:5432/booking",
            "postgres://rowlock:***@db/booking",
            "expected postgres://user:password@host:port/database",
            "listening on 127.0.0.1:50052",
            "{\"request_id\":\"01a20a8a\",\"reason\":\"TOKEN_INVALID\"}",
        ] {
            assert_eq!(secret_in(line), None, "{line}");
        }
    }
}
