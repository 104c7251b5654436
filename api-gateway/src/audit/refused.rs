//! Entries of requests that the door refused: they came to no route, so no layer of a route tells of them.

use std::{collections::HashMap, sync::Arc};

use axum::http::Method;
use muster_schemas::{
    audit::{Actor, AuditEntry, AuditOutcome},
    code::Code,
    time::Timestamp,
};

use crate::{
    app::App,
    endpoint::Endpoint,
    extract::{Remote, RequestId},
};

/// The action of a request to no route.
const REFUSE: &str = "requests.refuse";

/// The actions of all routes; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Actions(Arc<HashMap<&'static str, Vec<(Method, String)>>>);

impl Actions {
    pub(crate) fn of(table: &[Endpoint]) -> Self {
        let mut actions: HashMap<_, Vec<_>> = HashMap::new();
        for endpoint in table {
            actions.entry(endpoint.path).or_default().push((endpoint.method.clone(), endpoint.audit.action(endpoint.path)));
        }
        Self(Arc::new(actions))
    }

    /// Writes that the door refused a request: folded, by nobody, since nothing was looked at that could say who it was.
    pub(crate) async fn write(&self, app: &App, method: &Method, route: &str, remote: Option<Remote>, id: RequestId, code: Code) {
        let entry = AuditEntry {
            address: remote.map(|Remote(remote)| remote.to_string()),
            code: Some(code),
            request_id: Some(id.0.to_string()),
            ..AuditEntry::new(self.action(method, route), Actor::nobody(), AuditOutcome::Refused, Timestamp::now())
        };
        app.audit.write_folded(entry).await;
    }

    fn action(&self, method: &Method, route: &str) -> &str {
        // What answers GET answers HEAD.
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let found = self.0.get(route).and_then(|actions| actions.iter().find(|(known, _)| known == method));
        found.map_or(REFUSE, |(_, action)| action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_request_is_told_under_the_action_of_its_route_if_it_has_one() {
        let actions = Actions::of(&crate::routes::table());
        assert_eq!(actions.action(&Method::DELETE, "/api/v1/pools/{name}"), "pools.delete");
        assert_eq!(actions.action(&Method::HEAD, "/api/v1/pools/{name}"), "pools.read");
        assert_eq!(actions.action(&Method::TRACE, "/api/v1/pools/{name}"), REFUSE);
        assert_eq!(actions.action(&Method::GET, "unmatched"), REFUSE);
        assert!(muster_schemas::subjects::audit(REFUSE).is_some());
    }
}
