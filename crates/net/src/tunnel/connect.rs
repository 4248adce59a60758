//! The end that dials.

use std::{fmt, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::upgrade::Upgraded;
use hyper_util::{
    client::{legacy::connect::proxy::Tunnel, proxy::matcher::Matcher},
    rt::TokioIo,
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tower::{Service, service_fn};

use super::WebSocketIo;
use crate::{
    Address, Dial, DialError, Dialling, Duplex, Kind, ProxyError, TlsSettings, Verify,
    connect::{limited, tcp},
};

/// Through which HTTP proxies to dial, as the usual variables of the environment say it.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// `HTTP_PROXY`
    pub http: String,
    /// `HTTPS_PROXY`
    pub https: String,
    /// `NO_PROXY`
    pub no: String,
}

impl Proxies {
    fn matcher(&self) -> Matcher {
        Matcher::builder()
            .http(self.http.as_str())
            .https(self.https.as_str())
            .no(self.no.as_str())
            .build()
    }
}

/// Whom to dial, and how the two ends know each other.
#[derive(Clone)]
pub struct ConnectSettings {
    /// Where it listens. TLS of this address is not what the two ends trust: it is not verified.
    pub address: Address,
    /// The path of the websocket.
    pub path: &'static str,
    /// On the way to the address.
    pub proxies: Proxies,
    /// TLS inside the websocket: whom we trust and what we show.
    pub tls: Arc<ClientConfig>,
    /// The name that the other end's certificate must carry.
    pub server_name: ServerName<'static>,
    /// For each step: TCP and proxy, TLS outside, the websocket, TLS inside.
    pub step: Duration,
}

impl fmt::Debug for ConnectSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectSettings({}{})", self.address, self.path)
    }
}

/// What [`session`](super::session) runs over at the end that dials.
pub type Dialled = tokio_rustls::client::TlsStream<WebSocketIo<TokioIo<Upgraded>>>;

/// Dials. What comes of it is what [`session`](super::session) runs over; it ends when it is dropped.
///
/// # Errors
/// [`ProxyError`]: of the kinds of TLS where the ends do not trust each other, [`Kind::InvalidUpgrade`] with the status where HTTP answered
/// something else than a change of protocols.
pub async fn connect(settings: &ConnectSettings) -> Result<Dialled, ProxyError> {
    let name: Arc<str> = settings.address.to_string().into();
    let step = settings.step;
    let stream = limited(
        step,
        &name,
        dial(&settings.address, &settings.proxies, &name),
    )
    .await?;
    let stream: Box<dyn Duplex> = if settings.address.tls {
        limited(step, &name, outer_tls(stream, settings, &name)).await?
    } else {
        stream
    };
    let upgraded = limited(step, &name, upgrade(stream, settings, &name)).await?;
    let socket = WebSocketIo::client(TokioIo::new(upgraded)).await;
    let inner = async {
        tokio_rustls::TlsConnector::from(Arc::clone(&settings.tls))
            .connect(settings.server_name.clone(), socket)
            .await
            .map_err(|error| ProxyError::of_connection(&settings.address, error))
    };
    limited(step, &name, inner).await
}

/// Connections to one address by the same way, for what is asked there beside the tunnel.
#[derive(Clone)]
pub struct ProxiedDial {
    /// Where it listens.
    pub address: Address,
    /// On the way to it.
    pub proxies: Proxies,
}

impl fmt::Debug for ProxiedDial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxiedDial({})", self.address)
    }
}

impl Dial for ProxiedDial {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(async {
            let name: Arc<str> = self.address.to_string().into();
            let dialled = dial(&self.address, &self.proxies, &name).await;
            dialled.map_err(|error| DialError {
                kind: error.kind(),
                reason: error.root_cause(),
                source: Some(error.into()),
            })
        })
    }
}

async fn dial(
    address: &Address,
    proxies: &Proxies,
    name: &Arc<str>,
) -> Result<Box<dyn Duplex>, ProxyError> {
    let because = |error: http::Error| ProxyError::because(Kind::Settings, name, error);
    let target = Uri::builder()
        .scheme(if address.tls { "https" } else { "http" })
        .authority(with_port(address))
        .path_and_query("/")
        .build()
        .map_err(because)?;
    let Some(proxy) = proxies.matcher().intercept(&target) else {
        return Ok(Box::new(tcp(address, name, None).await?));
    };
    let named = proxy.uri().to_string();
    let proxy_address =
        Address::parse(&named).map_err(|error| ProxyError::because(Kind::Settings, name, error))?;
    if proxy_address.tls {
        let words = format!("the proxy {proxy_address}: only http:// proxies can be used");
        return Err(ProxyError::because(Kind::Settings, name, words));
    }
    let through: Arc<str> = format!("{name} through the proxy {proxy_address}").into();
    let to_proxy = {
        let through = Arc::clone(&through);
        service_fn(move |_: Uri| {
            let (address, through) = (proxy_address.clone(), Arc::clone(&through));
            async move { tcp(&address, &through, None).await.map(TokioIo::new) }
        })
    };
    let mut tunnel = Tunnel::new(proxy.uri().clone(), to_proxy);
    if let Some(auth) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(auth.clone());
    }
    let stream: TokioIo<TcpStream> = tunnel
        .call(target)
        .await
        .map_err(|error| ProxyError::classify(&through, error.into(), Kind::Unreachable))?;
    Ok(Box::new(stream.into_inner()))
}

/// `HOST:PORT`, with the port also where the scheme implies it.
fn with_port(address: &Address) -> String {
    if address.host.contains(':') {
        format!("[{}]:{}", address.host, address.port)
    } else {
        format!("{}:{}", address.host, address.port)
    }
}

async fn outer_tls(
    stream: Box<dyn Duplex>,
    settings: &ConnectSettings,
    name: &Arc<str>,
) -> Result<Box<dyn Duplex>, ProxyError> {
    let anybody = TlsSettings {
        verify: Verify::Nothing,
        ..TlsSettings::default()
    };
    let configs = anybody
        .build()
        .map_err(|error| ProxyError::because(Kind::Settings, name, error))?;
    let server_name = ServerName::try_from(settings.address.host.clone())
        .map_err(|error| ProxyError::because(Kind::Settings, name, error))?;
    let stream = tokio_rustls::TlsConnector::from(configs.http1)
        .connect(server_name, stream)
        .await
        // What the two ends trust is inside: a fault out here is one of the way.
        .map_err(|error| ProxyError::because(Kind::Tls, name, error))?;
    Ok(Box::new(stream))
}

async fn upgrade(
    stream: Box<dyn Duplex>,
    settings: &ConnectSettings,
    name: &Arc<str>,
) -> Result<Upgraded, ProxyError> {
    let classify = |error: hyper::Error| ProxyError::classify(name, error.into(), Kind::Malformed);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(classify)?;
    let key = STANDARD.encode(rand::random::<[u8; 16]>());
    let request = Request::builder()
        .uri(settings.path)
        .header(header::HOST, settings.address.authority())
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, &key)
        .body(Empty::<Bytes>::new())
        .map_err(|error| ProxyError::because(Kind::Settings, name, error))?;
    let mut connection = std::pin::pin!(connection.with_upgrades());
    let mut done = false;
    let answer = sender.send_request(request);
    let mut answer = std::pin::pin!(answer);
    // The connection has no task of its own: it is driven for as long as it speaks HTTP.
    let mut response = loop {
        tokio::select! {
            biased;
            response = &mut answer => break response.map_err(classify)?,
            ended = &mut connection, if !done => {
                done = true;
                ended.map_err(classify)?;
            }
        }
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(ProxyError::invalid_upgrade(name, response.status()));
    }
    let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
    let expected = HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok();
    if accepted.is_none() || accepted != expected.as_ref() {
        let words = "the answer does not belong to the websocket that was asked for";
        return Err(ProxyError::because(Kind::Malformed, name, words));
    }
    let upgraded = hyper::upgrade::on(&mut response);
    let mut upgraded = std::pin::pin!(upgraded);
    loop {
        tokio::select! {
            biased;
            upgraded = &mut upgraded => return upgraded.map_err(classify),
            ended = &mut connection, if !done => {
                done = true;
                ended.map_err(classify)?;
            }
        }
    }
}
