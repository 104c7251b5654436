//! The route table, and the router made from it. A new resource adds its `endpoints()` to [`table`], and is served, guarded and
//! documented.

use axum::{Router, middleware};

use crate::{
    agents, app::App, audit, auth, connections, dead, endpoint::Endpoint, groups, health, jobs, keys, openapi, plumbing, pools, schedules,
    signers, tokens, types,
};

/// Every endpoint under the API's base and beside it.
pub(crate) fn table() -> Vec<Endpoint> {
    let resources = [
        jobs::endpoints(),
        jobs::retry::endpoints(),
        jobs::why::endpoints(),
        groups::endpoints(),
        dead::endpoints(),
        jobs::list::endpoints(),
        pools::endpoints(),
        types::endpoints(),
        agents::endpoints(),
        keys::endpoints(),
        tokens::endpoints(),
        signers::endpoints(),
        schedules::endpoints(),
        connections::endpoints(),
        audit::endpoints(),
        health::endpoints(),
        openapi::endpoints(),
    ];
    resources.into_iter().flatten().collect()
}

/// The router of these endpoints. Also makes their document.
pub(crate) fn router(app: &App, table: Vec<Endpoint>) -> Router {
    // Only the first router of a state makes it; they are all of the same table.
    app.openapi.get_or_init(|| openapi::document(&table).to_string().into());
    let actions = audit::Actions::of(&table);
    let mut router = Router::new();
    for endpoint in table {
        // Around the handler alone, so that an unknown method is answered 405 and not 401.
        let gate = auth::Gate { app: app.clone(), access: endpoint.access };
        let handler = endpoint.handler.route_layer(middleware::from_fn_with_state(gate, auth::gate));
        // Around the gate: who is turned away is audited too.
        let place = audit::Place { app: app.clone(), audited: endpoint.audit, path: endpoint.path };
        router = router.route(endpoint.path, handler.route_layer(middleware::from_fn_with_state(place, audit::around)));
    }
    router
        .fallback(plumbing::not_found)
        .method_not_allowed_fallback(plumbing::method_not_allowed)
        .layer(middleware::from_fn_with_state((app.clone(), actions), plumbing::around))
        .with_state(app.clone())
}
