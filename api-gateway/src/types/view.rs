//! `GET /executors`: what can be asked of agents, with how many of them can do it.

use std::collections::{BTreeMap, btree_map::Entry};

use axum::{Json as Answer, extract::State, http::StatusCode};
use muster_schemas::{
    api::{ExecutorView, Many, TypeView},
    builtin,
    code::Code,
    describe::{Description, ExecutorInfo, TypeInfo},
    names::PoolName,
    records::Role,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::known::Known;
use crate::{
    app::App,
    endpoint::{Access, Endpoint},
    extract::Query,
    page::{self, Cursor},
    problem::ApiError,
};

pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/api/v1/executors", Access::Role(Role::Viewer), list)
            .about(
                "executors",
                "List executors",
                "By name: what each runs, with the JSON Schema of its params, an example, the kinds of connections that it may name, and how many agents \
                 have it that are there. Without a `pool` those of all pools, and those that are part of Muster also where no agent has them.",
            )
            .query::<ExecutorsQuery>()
            .answers::<Many<ExecutorView>>(StatusCode::OK, "A page of executors.")
            .codes(&[Code::NameInvalid, Code::PoolNotFound]),
    ]
}

/// Filters of the list of executors.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ExecutorsQuery {
    /// Only those that agents of this pool have.
    pool: Option<String>,
    /// Entries on the page, 1 to 500. Default 50.
    limit: Option<u32>,
    /// From the page before.
    cursor: Option<String>,
}

async fn list(State(app): State<App>, Query(query): Query<ExecutorsQuery>) -> Result<Answer<Many<ExecutorView>>, ApiError> {
    let pool: Option<PoolName> = query.pool.as_deref().map(str::parse).transpose()?;
    let limit = page::limit(query.limit)?;
    let after = query.cursor.as_deref().map(Cursor::decode).transpose()?;
    if let Some(pool) = &pool
        && app.mirror.pools.get(pool).is_none()
    {
        app.buckets.pool(pool).await?;
    }
    let shown = show(&app.types.now(), pool.as_ref()).into_iter();
    let behind = shown.filter(|executor| after.as_ref().is_none_or(|after| executor.name.as_str() > after.as_str()));
    Ok(Answer(page::cut(behind, limit, |executor| executor.name.to_string())))
}

/// The executors, by name. Of several descriptions of a type the one is shown that most agents have.
fn show(known: &Known, pool: Option<&PoolName>) -> Vec<ExecutorView> {
    let mut executors = Executors::default();
    let mut pools: Vec<_> = known.pools.iter().filter(|(name, _)| pool.is_none_or(|pool| pool == *name)).collect();
    // The same description may be in several pools; whoever comes first is shown.
    pools.sort_by_key(|(_, types)| std::cmp::Reverse(types.described.first().map_or(0, |(_, agents)| *agents)));
    for (described, agents) in pools.into_iter().flat_map(|(_, types)| &types.described) {
        executors.add(&described.description, *agents);
    }
    if pool.is_none() {
        executors.add(&builtin::description(), 0);
    }
    executors.0.into_values().collect()
}

#[derive(Default)]
struct Executors(BTreeMap<String, ExecutorView>);

impl Executors {
    fn add(&mut self, description: &Description, agents: u32) {
        for ExecutorInfo { name, about, types } in &description.executors {
            let empty = || ExecutorView { name: name.clone(), about: about.clone(), agents: 0, types: Vec::new() };
            let executor = match self.0.entry(name.to_string()) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(free) => free.insert(empty()),
            };
            executor.agents += agents;
            for info in types {
                add_type(&mut executor.types, info, agents);
            }
        }
    }
}

fn add_type(types: &mut Vec<TypeView>, info: &TypeInfo, agents: u32) {
    match types.iter_mut().find(|there| there.info.name == info.name) {
        Some(there) => {
            there.agents += agents;
            there.differing += if there.info == *info { 0 } else { agents };
        }
        None => types.push(TypeView { info: info.clone(), agents, differing: 0 }),
    }
}
