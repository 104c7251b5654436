//! What a connection adds to a request: who asks. Only for URLs under the connection's own `base_url`, on the first hop and on every other, so that
//! whoever writes a job can use the secret but not have it sent elsewhere.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use muster_executor::{Connection, Rejection, finish::chain};
use muster_schemas::code::Code;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Identity};
use url::Url;

use super::params;

/// How a connection's server knows who asks.
#[derive(Debug)]
pub(super) struct Auth {
    base: Url,
    how: How,
    /// What the server's certificate must be signed by; the system's authorities if absent.
    ca: Option<Vec<u8>>,
}

/// What a client for the connection's URLs has that the usual one lacks.
#[derive(Debug)]
pub(super) struct Own {
    /// The certificate that it shows.
    pub(super) identity: Option<Identity>,
    /// The only authorities that it trusts; the system's if empty.
    pub(super) trusted: Vec<Certificate>,
}

enum How {
    Header(HeaderName, HeaderValue),
    /// A client certificate with its key, PEM.
    Certificate(zeroize::Zeroizing<Vec<u8>>),
}

impl std::fmt::Debug for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header(name, _) => write!(f, "Header({name})"),
            Self::Certificate(_) => f.write_str("Certificate"),
        }
    }
}

impl Auth {
    /// Reads a connection of the kind `http`.
    pub(super) fn of(connection: &Connection) -> Result<Self, Rejection> {
        let (base, auth, name, ca) = connection.read(|fields| {
            let base = fields.text("base_url")?.ok_or_else(|| Rejection::field("base_url", "is missing"))?;
            let base = params::url(base).map_err(|problem| Rejection::field("base_url", problem))?;
            let auth = fields.text("auth")?.ok_or_else(|| Rejection::field("auth", "is missing"))?;
            let name = fields.text("header")?.unwrap_or("authorization");
            let name: HeaderName = name.parse().map_err(|_| Rejection::field("header", "is not a header name"))?;
            let ca = fields.text("ca")?.map(|pem| pem.as_bytes().to_vec());
            fields.end()?;
            if params::OWN_HEADERS.contains(&name.as_str()) {
                return Err(Rejection::field("header", "may not be this one"));
            }
            Ok((base, auth, name, ca))
        })?;
        let authorization = |text: String| Ok::<_, Rejection>(How::Header(header::AUTHORIZATION, secret_value(connection, &text)?));
        let how = match auth {
            "basic" => {
                let pair = zeroize::Zeroizing::new(format!("{}:{}", connection.secret("username")?, connection.secret("password")?));
                authorization(format!("Basic {}", BASE64.encode(pair.as_bytes())))?
            }
            "bearer" => authorization(format!("Bearer {}", connection.secret("token")?))?,
            "header" => How::Header(name, secret_value(connection, connection.secret("value")?)?),
            "mtls" => {
                let pem = [connection.secret("certificate")?, "\n", connection.secret("private_key")?].concat().into_bytes();
                How::Certificate(zeroize::Zeroizing::new(pem))
            }
            other => {
                let message =
                    format!("connection `{}`: settings.auth: `{other}` is none of basic, bearer, header and mtls", connection.name);
                return Err(Rejection::new(Code::SettingsInvalid, message));
            }
        };
        Ok(Self { base, how, ca })
    }

    /// Where the connection leads.
    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// Refuses what is not under the connection's URL, and headers of the job's own that say who asks.
    pub(super) fn admit(&self, url: &Url, headers: &HeaderMap) -> Result<(), Rejection> {
        if !self.covers(url) {
            let message = format!("params.url: is not under the connection's base_url {}", self.base);
            return Err(Rejection::new(Code::ConnectionMismatch, message));
        }
        match &self.how {
            How::Header(name, _) if headers.contains_key(name) => {
                Err(Rejection::field(&format!("headers.{name}"), "comes from the connection, so the job may not set it"))
            }
            _ => Ok(()),
        }
    }

    /// Whether a URL has the connection's origin, and its path begins with that of the connection, segment by segment.
    pub(super) fn covers(&self, url: &Url) -> bool {
        if url.origin() != self.base.origin() {
            return false;
        }
        let base = self.base.path().trim_end_matches('/');
        let Some(rest) = url.path().strip_prefix(base) else { return false };
        // `.` and `..` are gone by now, also `%2e`. A server may take an escaped slash for one; then what follows may be `..` again.
        let escaped = |path: &str| ["%2f", "%5c"].iter().any(|slash| path.to_ascii_lowercase().contains(slash));
        base.is_empty() || ((rest.is_empty() || rest.starts_with('/')) && !escaped(rest))
    }

    /// The header to add to a request for this URL.
    pub(super) fn header_for(&self, url: &Url) -> Option<(HeaderName, HeaderValue)> {
        match &self.how {
            How::Header(name, value) if self.covers(url) => Some((name.clone(), value.clone())),
            _ => None,
        }
    }

    /// The certificate that the client shows, and those that it trusts; `None` where the usual client will do.
    pub(super) fn client(&self, name: &str) -> Result<Option<Own>, Rejection> {
        let wrong = |field: &str, error: reqwest::Error| {
            let message = format!("connection `{name}`: {field}: {}", chain(&error));
            Rejection::new(Code::CredentialsInvalid, message)
        };
        let identity = match &self.how {
            How::Certificate(pem) => Some(Identity::from_pem(pem).map_err(|error| wrong("certificate and private_key", error))?),
            How::Header(..) => None,
        };
        let trusted = match &self.ca {
            Some(pem) => Certificate::from_pem_bundle(pem).map_err(|error| wrong("settings.ca", error))?,
            None => Vec::new(),
        };
        Ok((identity.is_some() || !trusted.is_empty()).then_some(Own { identity, trusted }))
    }
}

/// A header's value that the client's own logs and `Debug` leave out.
fn secret_value(connection: &Connection, text: &str) -> Result<HeaderValue, Rejection> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        let message = format!("the credentials of connection `{}` hold line breaks or other letters that no header takes", connection.name);
        Rejection::new(Code::CredentialsInvalid, message)
    })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests;
