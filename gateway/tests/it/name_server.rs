//! A name server that says what it is told to, and counts what it is asked.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// A record: of its name, for so many seconds.
#[derive(Clone)]
pub(crate) enum Record {
    /// An address.
    A(u32, Ipv4Addr),
    /// A server of a service: priority, weight, port, and its name.
    Srv(u32, u16, u16, u16, &'static str),
}

#[derive(Default)]
struct State {
    records: HashMap<String, Vec<Record>>,
    asked: HashMap<(String, u16), usize>,
    fails: bool,
}

/// A running name server; it stops when dropped.
pub(crate) struct NameServer {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    answering: JoinHandle<()>,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

impl NameServer {
    pub(crate) async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (address, state) = (socket.local_addr().unwrap(), Arc::new(Mutex::new(State::default())));
        let answering = tokio::spawn(answer(socket, state.clone()));
        Self { state, address, answering }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on a name has these records.
    pub(crate) fn says(&self, name: &str, records: &[Record]) {
        self.state.lock().unwrap().records.insert(name.to_owned(), records.to_vec());
    }

    /// From now on it fails (SERVFAIL), or does not any more.
    pub(crate) fn fails(&self, fails: bool) {
        self.state.lock().unwrap().fails = fails;
    }

    /// How often it was asked for the SRV records of a name.
    pub(crate) fn asked_for_service(&self, name: &str) -> usize {
        self.state.lock().unwrap().asked.get(&(name.to_owned(), SRV)).copied().unwrap_or(0)
    }
}

const A: u16 = 1;
const SRV: u16 = 33;

async fn answer(socket: UdpSocket, state: Arc<Mutex<State>>) {
    let mut query = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut query).await {
        if let Some(reply) = reply(&query[..length], &state) {
            drop(socket.send_to(&reply, from).await);
        }
    }
}

/// A name as it lies on the wire, and where it ends.
fn read_name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join(".").to_lowercase(), at));
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + length)?).into_owned());
        at += length;
    }
}

fn write_name(name: &str, to: &mut Vec<u8>) {
    for label in name.split('.').filter(|label| !label.is_empty()) {
        to.push(u8::try_from(label.len()).unwrap());
        to.extend_from_slice(label.as_bytes());
    }
    to.push(0);
}

fn reply(query: &[u8], state: &Mutex<State>) -> Option<Vec<u8>> {
    let (name, end) = read_name(query, 12)?;
    let kind = u16::from_be_bytes([*query.get(end)?, *query.get(end + 1)?]);
    let mut state = state.lock().unwrap();
    *state.asked.entry((name.clone(), kind)).or_default() += 1;
    let known = state.records.get(&name).cloned().unwrap_or_default();
    let fits = |record: &&Record| matches!((record, kind), (Record::A(..), A) | (Record::Srv(..), SRV));
    let records: Vec<_> = known.iter().filter(fits).filter(|_| !state.fails).collect();
    let mut reply = query[..2].to_vec();
    // An authoritative answer, without recursion; what went wrong is in its last four bits.
    reply.extend([
        0x85,
        if state.fails { 0x82 } else { 0x80 },
        0,
        1,
        0,
        u8::try_from(records.len()).unwrap(),
        0,
        0,
        0,
        0,
    ]);
    reply.extend_from_slice(&query[12..end + 4]);
    for record in records {
        let mut data = Vec::new();
        let ttl = match record {
            Record::A(ttl, address) => {
                data.extend(address.octets());
                ttl
            }
            Record::Srv(ttl, priority, weight, port, target) => {
                [priority, weight, port].into_iter().for_each(|number| data.extend(number.to_be_bytes()));
                write_name(target, &mut data);
                ttl
            }
        };
        // The name is that of the question.
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1]);
        reply.extend(ttl.to_be_bytes());
        reply.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        reply.extend(data);
    }
    Some(reply)
}
