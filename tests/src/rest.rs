//! The REST interface as a caller sees it.

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;

/// A caller with a key.
#[derive(Clone)]
pub struct Rest {
    http: reqwest::Client,
    base: String,
    key: String,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body, or null.
    pub body: Value,
}

impl Answer {
    /// What `data` holds.
    pub fn data(&self) -> &Value {
        &self.body["data"]
    }

    /// The job's id, state or the problem's code, as text.
    pub fn text(&self, path: &str) -> &str {
        self.body.pointer(path).and_then(Value::as_str).unwrap_or_default()
    }

    /// The code of a problem document.
    pub fn code(&self) -> &str {
        self.text("/code")
    }
}

impl Rest {
    /// A caller of the gateway at `base` (scheme, host and port).
    pub fn new(base: &str, key: &str) -> Self {
        Self::knowing(None, base, key)
    }

    /// A caller that trusts this authority (PEM) instead of the system's.
    pub(crate) fn knowing(ca: Option<&[u8]>, base: &str, key: &str) -> Self {
        // Several tests install it at once; the first one counts.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = reqwest::Client::builder().no_proxy().timeout(std::time::Duration::from_secs(90));
        let http = match ca {
            Some(pem) => builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem).unwrap()).build(),
            None => builder.build(),
        };
        Self { http: http.unwrap(), base: base.into(), key: key.into() }
    }

    /// Whether the gateway says that it is ready.
    pub async fn is_ready(&self) -> bool {
        self.http.get(format!("{}/readyz", self.base)).send().await.is_ok_and(|answer| answer.status().is_success())
    }

    /// The same gateway with another key.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: key.into(), ..self.clone() }
    }

    /// A request to `/api/v1<path>`.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/api/v1{path}", self.base)).bearer_auth(&self.key)
    }

    /// Sends a request and reads the answer. `None` when no answer came.
    pub async fn try_send(&self, request: RequestBuilder) -> Option<Answer> {
        let response = request.send().await.ok()?;
        let status = response.status();
        let bytes = response.bytes().await.ok()?;
        Some(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
    }

    /// Sends a request and reads the answer.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn send(&self, request: RequestBuilder) -> Answer {
        self.try_send(request).await.expect("no answer from the gateway")
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// POST of a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// PUT of a JSON body.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Submits a job to the pool `default` and gives back its id.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn submit(&self, kind: &str, params: Value) -> String {
        let answer = self.post("/jobs", &serde_json::json!({"pool": "default", "type": kind, "params": params})).await;
        assert!(answer.status.is_success(), "{answer:?}");
        answer.text("/data/id").into()
    }

    /// Waits up to `seconds` for a job to end and gives back the job.
    ///
    /// # Panics
    /// When it has not ended by then.
    pub async fn finished(&self, id: &str, seconds: u64) -> Value {
        let start = std::time::Instant::now();
        loop {
            let answer = self.get(&format!("/jobs/{id}?wait=20s")).await;
            if answer.data().get("result").is_some_and(|result| !result.is_null()) {
                return answer.data().clone();
            }
            assert!(start.elapsed().as_secs() < seconds, "job {id} has not ended within {seconds} s: {answer:?}");
        }
    }
}
