//! What is known about the client of a call, apart from its token.

use std::net::{IpAddr, SocketAddr};

use tonic::Request;
use tonic::metadata::{AsciiMetadataKey, MetadataMap};

/// The most characters that are kept of what a client calls itself.
const MAX_USER_AGENT_CHARS: usize = 200;

/// The client of a call.
#[derive(Clone, Debug, Default)]
pub(super) struct Client {
    pub(super) address: Option<IpAddr>,
    pub(super) user_agent: String,
}

/// Where the address of a client is taken from.
#[derive(Clone, Debug)]
pub enum ClientAddress {
    /// From the connection. Behind a proxy that is the proxy's, for every client.
    Connection,
    /// From this metadata, such as `x-forwarded-for`, which a proxy in front of the service must set or
    /// append to: of several addresses the last one counts, since the others are the client's word. Without
    /// it, from the connection.
    Header(AsciiMetadataKey),
}

impl ClientAddress {
    /// From the metadata of this name, in any case. `None` if it cannot be one.
    #[must_use]
    pub fn header(name: &str) -> Option<Self> {
        name.to_ascii_lowercase().parse().ok().map(Self::Header)
    }

    /// Who calls.
    pub(super) fn client<T>(&self, request: &Request<T>) -> Client {
        let forwarded = match self {
            Self::Connection => None,
            Self::Header(name) => forwarded(request.metadata(), name),
        };
        let user_agent = request.metadata().get("user-agent").and_then(|value| value.to_str().ok());
        Client {
            address: forwarded.or_else(|| request.remote_addr().map(|address| address.ip())),
            user_agent: user_agent.unwrap_or_default().chars().take(MAX_USER_AGENT_CHARS).collect(),
        }
    }
}

fn forwarded(metadata: &MetadataMap, name: &AsciiMetadataKey) -> Option<IpAddr> {
    let newest = metadata.get_all(name).iter().next_back()?.to_str().ok()?;
    let address = newest.rsplit(',').next()?.trim();
    // Some gateways add the port.
    address.parse().ok().or_else(|| address.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(headers: &[(&'static str, &str)], source: &ClientAddress) -> Client {
        let mut request = Request::new(());
        for (name, value) in headers {
            request.metadata_mut().append(*name, value.parse().unwrap());
        }
        source.client(&request)
    }

    #[test]
    fn only_what_the_nearest_proxy_wrote_is_believed_and_only_if_there_is_one() {
        let header = ClientAddress::header("X-Forwarded-For").unwrap();
        for (values, expected) in [
            (vec!["192.0.2.7"], Some("192.0.2.7")),
            (vec!["10.9.9.9, 192.0.2.7"], Some("192.0.2.7")),
            (vec!["10.9.9.9", "192.0.2.7"], Some("192.0.2.7")),
            (vec!["10.9.9.9, 192.0.2.7:40001"], Some("192.0.2.7")),
            (vec!["[2001:db8::7]:443"], Some("2001:db8::7")),
            (vec!["2001:db8::7"], Some("2001:db8::7")),
            (vec!["192.0.2.7, nonsense"], None),
            (vec![""], None),
            (vec![], None),
        ] {
            let headers: Vec<_> = values.iter().map(|value| ("x-forwarded-for", *value)).collect();
            let expected: Option<IpAddr> = expected.map(|text| text.parse().unwrap());
            assert_eq!(client(&headers, &header).address, expected, "{values:?}");
            assert_eq!(client(&headers, &ClientAddress::Connection).address, None);
        }
    }

    #[test]
    fn a_long_user_agent_is_cut() {
        let long = "x".repeat(300);
        assert_eq!(client(&[("user-agent", &long)], &ClientAddress::Connection).user_agent.len(), 200);
        assert_eq!(client(&[], &ClientAddress::Connection).user_agent, "");
    }
}
