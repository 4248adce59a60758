//! Plain HTTP as `curl` speaks it, for tests that are not asynchronous themselves.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

impl Answer {
    /// One header, empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
    }

    /// The body as JSON, null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// Sends one request on a connection of its own and waits for the whole answer, for at most 20 s.
///
/// # Errors
/// No answer.
pub fn send(method: Method, url: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer> {
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned())))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let exchange = async {
            let (head, body) = client.request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::Ok(Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body: String::from_utf8_lossy(&body).into_owned(),
            })
        };
        tokio::time::timeout(Duration::from_secs(20), exchange)
            .await
            .with_context(|| format!("no answer from {url} within 20 s"))?
            .with_context(|| format!("ask {url}"))
    })
}

/// A GET with a bearer token.
///
/// # Errors
/// No answer.
pub fn get(url: &str, token: &str) -> Result<Answer> {
    send(
        Method::GET,
        url,
        &[("authorization", &format!("Bearer {token}"))],
        "",
    )
}

/// The password grant, with the client that `kubesphere.yaml` names.
///
/// # Errors
/// No answer, or no token in it.
pub fn token(address: &str, user: &str, password: &str) -> Result<String> {
    let form = format!(
        "grant_type=password&username={user}&password={password}&client_id=kubesphere&client_secret=kubesphere"
    );
    let answer = send(
        Method::POST,
        &format!("{address}/oauth/token"),
        &[("content-type", "application/x-www-form-urlencoded")],
        &form,
    )?;
    let value = answer.json();
    let token = value.get("access_token").and_then(|token| token.as_str());
    Ok(token
        .with_context(|| format!("no token in {} {}", answer.status, answer.body))?
        .to_owned())
}
