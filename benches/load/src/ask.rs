//! One request that is not measured, for what its answer says.

use crate::answer::Answer;
use crate::connection::Way;
use crate::fault::Fault;
use crate::plan::Request;
use std::io::{Error, Result};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A whole answer.
#[derive(Debug)]
pub struct Answered {
    /// Its status.
    pub status: u16,
    /// Its body, or as much of it as is kept.
    pub body: Vec<u8>,
    /// Whether it was a stream that ended as such.
    pub is_stream: bool,
}

/// As much of a body is kept.
const KEPT: usize = 4 << 20;

/// Asks once, and waits no longer than `patience`.
///
/// # Errors
/// In words, why there is no answer.
pub fn ask(way: &Way, request: &Request, patience: Duration) -> Result<Answered> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let timeout = || Error::other(format!("no answer within {} seconds", patience.as_secs_f64()));
    runtime.block_on(async { tokio::time::timeout(patience, exchange(way, request)).await }).map_err(|_| timeout())?
}

async fn exchange(way: &Way, request: &Request) -> Result<Answered> {
    let (mut answer, mut body, mut buffer) = (Answer::default(), Vec::new(), vec![0; 16 << 10]);
    let mut connection = way.connect().await.map_err(|(fault, error)| match fault {
        Fault::Tls => Error::other(format!("no TLS: {error}")),
        _ => error,
    })?;
    connection.write_all(&request.bytes).await?;
    connection.flush().await?;
    while !answer.is_whole() {
        let count = connection.read(&mut buffer).await?;
        if count == 0 && !answer.ends_here() {
            return Err(Error::other("the connection was closed before the answer was whole"));
        }
        let mut keep = |data: &[u8]| body.extend_from_slice(&data[..data.len().min(KEPT - body.len())]);
        answer.feed(&buffer[..count], &mut keep).map_err(|_| Error::other("what answers there speaks no HTTP/1.1"))?;
    }
    Ok(Answered { status: answer.status, body, is_stream: answer.events.done })
}
