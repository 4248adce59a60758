//! Logins: `/oauth/token`, `/oauth/userinfo`, `/oauth/logout` (oauth.md §3, §5, §6).

use std::collections::HashMap;

use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::json;
use subtle::ConstantTimeEq;

use crate::{
    answer::{self, respond, with_header},
    callers::{Callers, GrantError, Tokens},
    gateway::Arrived,
    receive::{NotReceived, WITHIN, receive},
};

/// A form with a name, a password and a token is not larger.
const LARGEST_FORM: usize = 64 * 1024;

#[derive(Serialize)]
struct OauthError<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    error_description: &'a str,
}

fn refuse(code: StatusCode, error: &str, error_description: &str) -> Response {
    answer::json(
        code,
        &OauthError {
            error,
            error_description,
        },
    )
}

fn invalid_client(text: &str) -> Response {
    refuse(StatusCode::UNAUTHORIZED, "invalid_client", text)
}

/// `POST /oauth/token`: form, client, secret, grant, in this order; the first failure answers.
pub(crate) async fn token(callers: &dyn Callers, arrived: Arrived) -> Response {
    let Arrived {
        body,
        settings,
        client,
        parts,
        ..
    } = arrived;
    let body = match receive(body, LARGEST_FORM, WITHIN).await {
        Ok(body) => body,
        Err(NotReceived::TooLarge(_)) => {
            return answer::text(
                StatusCode::PAYLOAD_TOO_LARGE,
                "http: request body too large",
            );
        }
        Err(late @ NotReceived::Late(_)) => {
            return answer::text(StatusCode::REQUEST_TIMEOUT, &late.to_string());
        }
    };
    let form = match parse_form(&body) {
        Ok(form) => form,
        Err(text) => return invalid_client(&text),
    };
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let Some(registered) = settings
        .clients
        .iter()
        .find(|known| known.name == field("client_id"))
    else {
        return invalid_client("the OAuth client was not found");
    };
    let same: bool = registered
        .secret
        .as_bytes()
        .ct_eq(field("client_secret").as_bytes())
        .into();
    if !same {
        return invalid_client("invalid client credential");
    }
    let agent = parts
        .headers
        .get(header::USER_AGENT)
        .and_then(|value| value.to_str().ok());
    let granted = match field("grant_type") {
        "password" => {
            callers
                .password(field("username"), field("password"), client, agent)
                .await
        }
        "refresh_token" => callers.refresh(field("refresh_token")).await,
        _ => return refuse(StatusCode::BAD_REQUEST, "unsupported_grant_type", ""),
    };
    match granted {
        Ok(tokens) => issued(&tokens),
        Err(GrantError::Invalid(text)) => refuse(StatusCode::BAD_REQUEST, "invalid_grant", &text),
        Err(GrantError::Limited(text)) => {
            refuse(StatusCode::TOO_MANY_REQUESTS, "invalid_grant", &text)
        }
        Err(GrantError::Fault(text)) => {
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "server_error", &text)
        }
    }
}

fn issued(tokens: &Tokens) -> Response {
    #[derive(Serialize)]
    struct Issued<'a> {
        access_token: &'a str,
        token_type: &'a str,
        refresh_token: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_in: Option<u64>,
    }
    answer::json(
        StatusCode::OK,
        &Issued {
            access_token: &tokens.access,
            token_type: "Bearer",
            refresh_token: &tokens.refresh,
            expires_in: tokens.expires_in.filter(|seconds| *seconds > 0),
        },
    )
}

/// The first value of each field. A broken escape is told as the original tells it.
fn parse_form(body: &[u8]) -> Result<HashMap<String, String>, String> {
    for (at, _) in body.iter().enumerate().filter(|(_, byte)| **byte == b'%') {
        let escape: Vec<u8> = body.iter().skip(at).take(3).copied().collect();
        let digits = escape
            .iter()
            .skip(1)
            .filter(|byte| byte.is_ascii_hexdigit())
            .count();
        if digits < 2 {
            return Err(format!(
                "invalid URL escape {:?}",
                String::from_utf8_lossy(&escape)
            ));
        }
    }
    let mut form = HashMap::new();
    for (name, value) in form_urlencoded::parse(body) {
        form.entry(name.into_owned())
            .or_insert_with(|| value.into_owned());
    }
    Ok(form)
}

/// `GET /oauth/userinfo`: the claims of the caller.
pub(crate) fn userinfo(callers: &dyn Callers, arrived: &Arrived) -> Response {
    if arrived.caller.anonymous {
        return refuse(StatusCode::UNAUTHORIZED, "login_required", "");
    }
    let name = arrived.caller.name.as_str();
    let Some(profile) = callers.profile(name) else {
        let text = format!("user.iam.kubesphere.io {name:?} not found");
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "server_error", &text);
    };
    let mut claims = json!({"sub": name, "name": name});
    if let Some(claims) = claims.as_object_mut() {
        for (key, value) in [("email", profile.email), ("locale", profile.locale)] {
            if !value.is_empty() {
                claims.insert(key.to_owned(), value.into());
            }
        }
        claims.insert("preferred_username".to_owned(), name.into());
    }
    answer::json(StatusCode::OK, &claims)
}

/// `GET /oauth/logout`: ends all sessions of the caller.
pub(crate) async fn logout(callers: &dyn Callers, arrived: Arrived) -> Response {
    let Arrived {
        caller,
        target,
        settings,
        parts,
        ..
    } = arrived;
    if !caller.anonymous
        && let Err(text) = callers.revoke(&caller.name).await
    {
        let text = format!("Internal error occurred: {text}");
        return answer::handler_error(&parts.headers, StatusCode::INTERNAL_SERVER_ERROR, &text);
    }
    let mut pairs = form_urlencoded::parse(target.query().as_bytes());
    let Some((_, to)) = pairs.find(|(name, _)| name == "post_logout_redirect_uri") else {
        return answer::json(StatusCode::OK, &json!({"message": "success"}));
    };
    // Only to where a registered client lives: any other place would make this an open redirect.
    if !settings
        .clients
        .iter()
        .any(|client| client.redirect_uris.iter().any(|uri| **uri == *to))
    {
        let text = "invalid logout redirect URI: it is not registered for any client";
        return answer::handler_error(&parts.headers, StatusCode::BAD_REQUEST, text);
    }
    let state = form_urlencoded::parse(target.query().as_bytes())
        .find(|(name, _)| name == "state")
        .map(|(_, value)| {
            form_urlencoded::Serializer::new(String::new())
                .append_pair("state", &value)
                .finish()
        });
    let location = match state {
        None => to.into_owned(),
        Some(state) if to.contains('?') => format!("{to}&{state}"),
        Some(state) => format!("{to}?{state}"),
    };
    let text = HeaderValue::from_static("text/plain");
    with_header(
        respond(StatusCode::FOUND, text, ""),
        header::LOCATION,
        &location,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read_as_the_original_reads_them() {
        assert_eq!(
            parse_form(b"client_id=%zz").unwrap_err(),
            "invalid URL escape \"%zz\""
        );
        assert_eq!(
            parse_form(b"a=%4").unwrap_err(),
            "invalid URL escape \"%4\""
        );
        let form = parse_form(b"a=1&a=2&b=x+y%26").unwrap();
        assert_eq!((form["a"].as_str(), form["b"].as_str()), ("1", "x y&"));
    }
}
