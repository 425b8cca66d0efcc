//! What is kept of what was used: it is what clients were told, to the last token, whatever becomes of the process.

mod agree;
mod ask;
mod away;
mod killed;
mod mixed;
