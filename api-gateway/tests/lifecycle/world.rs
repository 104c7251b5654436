//! A broker with gateways, and a stand-in for the active dispatcher: it carries out removals and says when it is done.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::StreamExt as _;
use muster_broker_config::provision;
use muster_runtime::tasks::Group;
use muster_schemas::{
    control::{SettleAnswer, SettleRequest},
    names::AgentId,
    records::{AgentRecord, AgentState, ApiKeyRecord, KeyOwner, RevocationRecord, keys},
    subjects::{self, broker},
    time::Timestamp,
    topology, wire,
};
use serde_json::Value;

use crate::stack::{Answer, Gateway, Http, POOL, Stack, body, join};

/// Two gateways on one broker.
pub(crate) struct World {
    pub(crate) stack: Stack,
    pub(crate) one: Gateway,
    pub(crate) two: Gateway,
    settled: Arc<Mutex<Vec<AgentId>>>,
    /// So many questions the stand-in does not hear, as one that dies over them.
    pub(crate) unheard: Arc<AtomicUsize>,
    group: Group,
}

impl Drop for World {
    fn drop(&mut self) {
        self.group.abort_all();
    }
}

impl World {
    /// With the stand-in.
    pub(crate) async fn start() -> Self {
        let world = Self::without_dispatcher().await;
        world.dispatch().await;
        world
    }

    pub(crate) async fn without_dispatcher() -> Self {
        let stack = Stack::start().await;
        let (one, two) = (stack.gateway(&[]).await, stack.gateway(&[]).await);
        let core = stack.broker().await;
        provision::ensure_pool(&core, &provision::default_pool("other".parse().unwrap(), Timestamp::now())).await.unwrap();
        Self { stack, one, two, settled: Arc::default(), unheard: Arc::default(), group: Group::new("stand-in") }
    }

    /// Starts the stand-in.
    pub(crate) async fn dispatch(&self) {
        let options = async_nats::ConnectOptions::with_credentials_file(self.stack.deployment.layout.dispatcher_creds()).await.unwrap();
        let client = options.custom_inbox_prefix(broker::dispatcher_inbox("test")).connect(self.stack.server.url()).await.unwrap();
        let mut requests = client.subscribe(subjects::SETTLE).await.unwrap();
        client.flush().await.unwrap();
        let (agents, api_keys) = (self.stack.bucket(topology::AGENTS).await, self.stack.bucket(topology::API_KEYS).await);
        let (core, settled, unheard) = (self.stack.broker().await, Arc::clone(&self.settled), Arc::clone(&self.unheard));
        drop(self.group.spawn(async move {
            while let Some(request) = requests.next().await {
                if unheard.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                    continue;
                }
                let SettleRequest { agent_id, .. } = wire::decode(&request.payload).unwrap();
                let record: Option<AgentRecord> =
                    agents.get(keys::agent(&agent_id)).await.unwrap().map(|bytes| wire::decode(&bytes).unwrap());
                if let Some(record) = record.filter(|record| record.state == AgentState::Deleting) {
                    provision::remove_commands(&core, &agent_id).await.unwrap();
                    let mut all = api_keys.keys().await.unwrap();
                    while let Some(Ok(prefix)) = all.next().await {
                        let key: ApiKeyRecord = wire::decode(&api_keys.get(&prefix).await.unwrap().unwrap()).unwrap();
                        if key.owner == KeyOwner::Agent(agent_id.clone()) {
                            api_keys.delete(&prefix).await.unwrap();
                        }
                    }
                    agents.delete(keys::agent_name(&record.name)).await.unwrap();
                    agents.delete(keys::agent(&agent_id)).await.unwrap();
                }
                settled.lock().unwrap().push(agent_id);
                client.publish(request.reply.unwrap(), wire::encode(&SettleAnswer::default()).into()).await.unwrap();
            }
        }));
    }

    /// How often the stand-in was asked about an agent.
    pub(crate) fn settled(&self, id: &AgentId) -> usize {
        self.settled.lock().unwrap().iter().filter(|agent| *agent == id).count()
    }

    pub(crate) fn admin(&self) -> Http {
        self.stack.admin(&self.one)
    }

    /// Does something to an agent, as the administrator at the first gateway.
    pub(crate) async fn act(&self, id: &AgentId, deed: &str) -> Answer {
        act(&self.admin(), id, deed).await
    }

    /// An agent that joined with a token of its pool: what it was answered, and its id.
    pub(crate) async fn agent(&self, name: &str) -> (Value, AgentId) {
        self.agent_with(&body(name)).await
    }

    pub(crate) async fn agent_with(&self, body: &Value) -> (Value, AgentId) {
        let joined = join(&self.one, &self.stack.join_token(), body).await.data(201).clone();
        let id = joined["agent_id"].as_str().unwrap().parse().unwrap();
        (joined, id)
    }

    /// A join token.
    pub(crate) async fn token(&self, fields: Value) -> String {
        let mut asked = serde_json::json!({"pool": POOL, "uses": 50});
        for (key, value) in fields.as_object().unwrap() {
            asked[key] = value.clone();
        }
        self.admin().post("/api/v1/join-tokens", &asked).await.data(201)["token"].as_str().unwrap().to_owned()
    }

    /// The agent as it is shown.
    pub(crate) async fn view(&self, id: &AgentId) -> Value {
        self.admin().get(&path(id)).await.data(200).clone()
    }

    /// Whether the broker is to refuse a public key.
    pub(crate) async fn is_refused(&self, public_key: &str) -> bool {
        let entry = self.stack.bucket(topology::REVOCATIONS).await.get(public_key).await.unwrap();
        entry.is_some_and(|bytes| {
            let entry: RevocationRecord = wire::decode(&bytes).unwrap();
            entry.until_s >= entry.at.secs() + 47 * 3600
        })
    }
}

/// What a JWT says of permissions.
pub(crate) fn permissions(jwt: &str) -> Value {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice::<Value>(&body).unwrap()["nats"].clone()
}

pub(crate) fn path(id: &AgentId) -> String {
    format!("/api/v1/agents/{id}")
}

pub(crate) async fn act(http: &Http, id: &AgentId, deed: &str) -> Answer {
    crate::stack::send(http.request(reqwest::Method::POST, &format!("{}/{deed}", path(id)))).await
}
