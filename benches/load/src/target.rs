//! Where requests go: a URL, and the address behind it.

use std::io::{Error, Result};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// A URL in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whether it begins with `https`.
    pub tls: bool,
    /// The name or address alone, an IPv6 address without its brackets.
    pub host: String,
    /// The port it names, or that of its scheme.
    pub port: u16,
    /// Host and port as they stand in it: what the header `host` says.
    pub authority: String,
    /// What follows; empty if nothing does.
    pub path: String,
}

/// How long one of several addresses may take to show that somebody listens there.
const PATIENCE: Duration = Duration::from_secs(2);

impl Target {
    /// Reads `http://HOST[:PORT][/PATH]` or the same with `https`.
    ///
    /// # Errors
    /// In words, if it is not that.
    pub fn parse(url: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("{url} is not http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH");
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(wrong()),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let strange = |byte: u8| byte.is_ascii_whitespace() || byte.is_ascii_control() || b"@?#".contains(&byte);
        if authority.bytes().any(strange) || path.bytes().any(|byte| byte != b'?' && strange(byte)) {
            return Err(wrong());
        }
        // The colons of an IPv6 address stand in brackets.
        let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
            None => (authority, if tls { 443 } else { 80 }),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(wrong());
        }
        Ok(Self { tls, host: host.to_owned(), port, authority: authority.to_owned(), path: path.to_owned() })
    }

    /// The address behind it. Of several, such as the two of `localhost`, the first where somebody listens.
    ///
    /// # Errors
    /// The name is unknown, or nobody listens at any of its addresses.
    pub fn address(&self) -> Result<SocketAddr> {
        let addresses: Vec<_> = (self.host.as_str(), self.port).to_socket_addrs()?.collect();
        match addresses[..] {
            [] => Err(Error::other(format!("{} has no address", self.host))),
            [only] => Ok(only),
            _ => {
                let mut fault = None;
                for address in addresses {
                    match TcpStream::connect_timeout(&address, PATIENCE) {
                        Ok(_) => return Ok(address),
                        Err(error) => fault = fault.or(Some(error)),
                    }
                }
                Err(fault.unwrap_or_else(|| Error::other("nobody listens")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let target = Target::parse("http://127.0.0.1:8080/v1/x?y=1").unwrap();
        let said = (target.tls, &*target.host, target.port, &*target.authority, &*target.path);
        assert_eq!(said, (false, "127.0.0.1", 8080, "127.0.0.1:8080", "/v1/x?y=1"));
        let target = Target::parse("https://api.example.com").unwrap();
        assert_eq!((target.tls, target.port, &*target.path), (true, 443, ""));
        let target = Target::parse("http://[::1]/v1").unwrap();
        assert_eq!((&*target.host, target.port, &*target.authority), ("::1", 80, "[::1]"));
        assert_eq!(Target::parse("http://[::1]:9/").unwrap().port, 9);
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for url in
            ["", "127.0.0.1:8080", "ftp://a/", "http://", "http://:80/", "http://a:b/", "http://u:p@h/", "http://a/b c"]
        {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn of_two_addresses_the_one_where_somebody_listens_is_taken() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Target::parse(&format!("http://localhost:{port}/")).unwrap();
        assert_eq!(target.address().unwrap(), listener.local_addr().unwrap());
    }
}
