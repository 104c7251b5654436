//! The API's document (OpenAPI 3.1), made from the route table, and the page that shows it.

mod document;
mod types;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect},
};

use crate::{
    app::App,
    endpoint::{Access, Endpoint},
    problem::ApiError,
};

pub(crate) use document::document;

const PAGE: &str = include_str!("openapi/page.html");
/// Stands for the number used once in [`PAGE`].
const NONCE: &str = "NONCE";

pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/openapi.json", Access::Public, text).about("documentation", "This document", "").answers_other(
            StatusCode::OK,
            "The API's document.",
            "application/json",
        ),
        Endpoint::get("/docs", Access::Public, page)
            .about("documentation", "The API as a page", "Shows this document, with a form to try each endpoint.")
            .answers_other(StatusCode::OK, "The page.", "text/html"),
        Endpoint::get("/", Access::Public, async || Redirect::temporary("/docs"))
            .about("documentation", "Leads to the page", "")
            .answers_other(StatusCode::TEMPORARY_REDIRECT, "To `/docs`.", ""),
    ]
}

async fn text(State(app): State<App>) -> Result<impl IntoResponse, ApiError> {
    let text = app.openapi.get().cloned().ok_or_else(|| ApiError::internal("show the document", "it was not made"))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text))
}

/// The page loads nothing from anywhere and runs no script but its own, which the number used once marks.
async fn page() -> Result<impl IntoResponse, ApiError> {
    let nonce = format!("{:032x}", rand::random::<u128>());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    );
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let policy = HeaderValue::try_from(policy).map_err(|error| ApiError::internal("show the page", error))?;
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok((headers, PAGE.replace(NONCE, &nonce)))
}
