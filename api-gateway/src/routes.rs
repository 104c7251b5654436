//! The route table, and the router made from it. A new resource adds its `endpoints()` to [`table`], and is served, guarded and
//! documented.

use axum::{Router, middleware};

use crate::{app::App, auth, endpoint::Endpoint, jobs, plumbing, pools};

/// Every endpoint under the API's base and beside it.
pub(crate) fn table() -> Vec<Endpoint> {
    [jobs::endpoints(), pools::endpoints()].into_iter().flatten().collect()
}

/// The router of these endpoints.
pub(crate) fn router(app: &App, table: Vec<Endpoint>) -> Router {
    let mut router = Router::new();
    for endpoint in table {
        // Around the handler alone, so that an unknown method is answered 405 and not 401.
        let gate = auth::Gate { app: app.clone(), access: endpoint.access };
        router = router.route(endpoint.path, endpoint.handler.route_layer(middleware::from_fn_with_state(gate, auth::gate)));
    }
    router
        .fallback(plumbing::not_found)
        .method_not_allowed_fallback(plumbing::method_not_allowed)
        .layer(middleware::from_fn_with_state(app.clone(), plumbing::around))
        .with_state(app.clone())
}
