//! Streams that one backend begins and another ends.
//!
//! A stream of plain text breaks; what its client has been given of it is sent to another backend, as the beginning of the
//! answer that is to be continued, and what that one says is joined on. Four parts: [`is_plain`] says which requests can be
//! treated so at all, [`Given`] keeps what was given, [`continued`] makes the request for the rest, and [`Seam`] makes of
//! the second stream the end of the first: the same ids, one role, no text twice, the tokens of both counted once.
//!
//! Whatever cannot be shown to be right is not done: [`Given`] gives up on a stream with anything in it but text, and
//! [`Seam`] on a backend that says again what was given, where that could be the continuation just as well.

mod chunk;
mod given;
mod request;
mod seam;

pub use given::{Given, Loss};
pub use request::{Continuation, continued, is_plain};
pub use seam::{Repeats, Seam};

#[cfg(test)]
mod tests;
