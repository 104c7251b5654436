//! One row of the route table: what answers a method on a path, who may use it, and what the API document says of it.
//!
//! The router and the OpenAPI document are both made from these rows (see [`crate::routes`] and [`crate::openapi`]), so neither can
//! forget one. Who may use an endpoint is decided here and nowhere else.

use axum::{
    handler::Handler,
    http::{Method, StatusCode},
    routing::{MethodRouter, delete, get, patch, post, put},
};
use muster_schemas::{code::Code, records::Role};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::{app::App, audit::Audited};

/// Who may use an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anybody.
    Public,
    /// Holders of an API key with this role or a larger one. The handler can ask for the [`crate::auth::Caller`].
    Role(Role),
    /// Holders of a join token, or of an agent's API key. The handler can ask for the [`crate::auth::Joiner`].
    AgentOrToken,
}

/// Makes a type's schema, and those of the types in it.
pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// A successful answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) what: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) schema: Option<SchemaOf>,
}

/// One row of the route table.
pub(crate) struct Endpoint {
    pub(crate) method: Method,
    /// As axum takes it: `/api/v1/jobs/{id}`.
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    pub(crate) handler: MethodRouter<App>,
    pub(crate) tag: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) description: &'static str,
    pub(crate) query: Option<SchemaOf>,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) body: Option<SchemaOf>,
    pub(crate) answers: Vec<Answer>,
    /// Error codes beside those that every endpoint of its access can answer.
    pub(crate) codes: Vec<Code>,
    /// What the audit trail says of it.
    pub(crate) audit: Audited,
}

impl Endpoint {
    /// A row for an endpoint that answers GET (and with it HEAD).
    pub(crate) fn get<H: Handler<T, App>, T: 'static>(path: &'static str, access: Access, handler: H) -> Self {
        Self::new(Method::GET, path, access, get(handler))
    }

    /// A row for an endpoint that answers POST.
    pub(crate) fn post<H: Handler<T, App>, T: 'static>(path: &'static str, access: Access, handler: H) -> Self {
        Self::new(Method::POST, path, access, post(handler))
    }

    /// A row for an endpoint that answers PUT.
    pub(crate) fn put<H: Handler<T, App>, T: 'static>(path: &'static str, access: Access, handler: H) -> Self {
        Self::new(Method::PUT, path, access, put(handler))
    }

    /// A row for an endpoint that answers PATCH.
    pub(crate) fn patch<H: Handler<T, App>, T: 'static>(path: &'static str, access: Access, handler: H) -> Self {
        Self::new(Method::PATCH, path, access, patch(handler))
    }

    /// A row for an endpoint that answers DELETE.
    pub(crate) fn delete<H: Handler<T, App>, T: 'static>(path: &'static str, access: Access, handler: H) -> Self {
        Self::new(Method::DELETE, path, access, delete(handler))
    }

    pub(crate) fn new(method: Method, path: &'static str, access: Access, handler: MethodRouter<App>) -> Self {
        Self {
            method,
            path,
            access,
            handler,
            tag: "",
            summary: "",
            description: "",
            query: None,
            headers: Vec::new(),
            body: None,
            answers: Vec::new(),
            codes: Vec::new(),
            audit: Audited::RefusalsOnly { action: None, why: None },
        }
    }

    /// The group it is shown in, what it does in a few words, and what else is to be said.
    pub(crate) fn about(mut self, tag: &'static str, summary: &'static str, description: &'static str) -> Self {
        (self.tag, self.summary, self.description) = (tag, summary, description);
        self
    }

    /// Query parameters: the fields of a flat struct.
    pub(crate) fn query<T: JsonSchema>(mut self) -> Self {
        // Not by reference: its fields are listed one by one, and nothing else points to it.
        self.query = Some(|generator| T::json_schema(generator));
        self
    }

    /// A request header that it reads.
    pub(crate) fn header(mut self, name: &'static str, what: &'static str) -> Self {
        self.headers.push((name, what));
        self
    }

    /// The JSON body that it takes.
    pub(crate) fn body<T: JsonSchema>(mut self) -> Self {
        self.body = Some(|generator| generator.subschema_for::<T>());
        self
    }

    /// A successful answer with a JSON body.
    pub(crate) fn answers<T: JsonSchema>(mut self, status: StatusCode, what: &'static str) -> Self {
        let schema: SchemaOf = |generator| generator.subschema_for::<T>();
        self.answers.push(Answer { status, what, content_type: "application/json", schema: Some(schema) });
        self
    }

    /// A successful answer with another body, or with none (`content_type` empty).
    pub(crate) fn answers_other(mut self, status: StatusCode, what: &'static str, content_type: &'static str) -> Self {
        self.answers.push(Answer { status, what, content_type, schema: None });
        self
    }

    /// Error codes that it can answer, beside those of its access (401, 403, 429), of a body (400, 413) and of the broker (503).
    pub(crate) fn codes(mut self, codes: &[Code]) -> Self {
        self.codes.extend_from_slice(codes);
        self
    }

    /// Every use of it goes into the audit trail, under this action: `<area>.<deed>`. Its target is the path's parameter.
    pub(crate) fn audited(mut self, action: &'static str) -> Self {
        self.audit = Audited::Always { action, made: None };
        self
    }

    /// The same, where it makes something: its target is then in its answer, at this JSON pointer, such as `/data/id`. An id, never a secret.
    pub(crate) fn audited_made(mut self, action: &'static str, made: &'static str) -> Self {
        self.audit = Audited::Always { action, made: Some(made) };
        self
    }

    /// Only refusals of it go into the audit trail, under this action. `why` says why the rest need not.
    pub(crate) fn unaudited(mut self, action: &'static str, why: &'static str) -> Self {
        self.audit = Audited::RefusalsOnly { action: Some(action), why: Some(why) };
        self
    }
}
