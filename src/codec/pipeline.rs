//! The three steps in a row: framing with its check, decoding, readings. A device and the sniffer use the same.

use std::time::Duration;

use super::{
    Check, CheckKeys, DecodeKeys, Decoded, Decoder, Event, FieldKeys, Frame, FrameKeys, Framer, Joined, KeyError,
    MatchKeys, Reason,
};
use crate::model::Value;

/// What became of bytes, seen from behind the decoder.
pub enum Output<'a> {
    /// A good frame and its readings; the vector may be drained.
    Frame {
        /// The frame.
        frame: &'a Frame<'a>,
        /// Readings of the points, in the order of the points.
        readings: &'a mut Vec<Decoded>,
        /// All its fields, on demand.
        fields: Fields<'a>,
    },
    /// A good frame that `decode.match` leaves to others.
    NotOurs(&'a Frame<'a>),
    /// A bad frame: cut wrongly, failed its check, or not of the decoder's form.
    Rejected {
        /// Why.
        reason: Reason,
        /// The bytes that were taken for a frame.
        frame: &'a [u8],
        /// Bytes lost by it for sure.
        bytes: usize,
    },
    /// Bytes that belong to no frame.
    Dropped(&'a [u8]),
}

/// The fields of one frame.
pub struct Fields<'a> {
    decoder: &'a Decoder,
    frame: &'a Frame<'a>,
}

impl Fields<'_> {
    /// Visits every field by name.
    pub fn each(&self, visit: &mut dyn FnMut(&str, Value)) {
        self.decoder.fields(self.frame, visit);
    }

    /// Whether the frame passes one of the gates of [`Pipeline::with_gates`].
    pub fn passes(&self, gate: usize) -> bool {
        self.decoder.passes(gate, self.frame)
    }
}

/// From bytes to readings.
pub struct Pipeline {
    framer: Framer,
    decoder: Decoder,
    readings: Vec<Decoded>,
}

impl Pipeline {
    /// A pipeline as the keys say; all wrong keys are told at once.
    pub fn new(
        frame: &FrameKeys,
        check: Option<&CheckKeys>,
        decode: &DecodeKeys,
        points: &[(&str, &FieldKeys)],
    ) -> Result<Pipeline, Vec<KeyError>> {
        Pipeline::with_gates(frame, check, decode, points, &[])
    }

    /// The same with further `match`es, each with its path: see [`Fields::passes`].
    pub fn with_gates(
        frame: &FrameKeys,
        check: Option<&CheckKeys>,
        decode: &DecodeKeys,
        points: &[(&str, &FieldKeys)],
        gates: &[(String, &MatchKeys)],
    ) -> Result<Pipeline, Vec<KeyError>> {
        match (Framer::new(frame, check), Decoder::with_gates(decode, points, gates)) {
            (Ok(framer), Ok(decoder)) => Ok(Pipeline { framer, decoder, readings: Vec::new() }),
            (framer, decoder) => Err([framer.err(), decoder.err()].into_iter().flatten().flatten().collect()),
        }
    }

    /// Forgets what is kept; called when a port was opened again.
    pub fn reset(&mut self, joined: Joined) {
        self.framer.reset(joined);
    }

    /// Takes bytes as they came.
    pub fn push(&mut self, bytes: &[u8], sink: &mut dyn FnMut(Output<'_>)) {
        let Pipeline { framer, decoder, readings } = self;
        framer.push(bytes, |event| tell(decoder, readings, event, sink));
    }

    /// The silence after which [`Pipeline::idle`] wants to be called, counted from the last byte; `None`: never.
    pub fn idle_after(&self) -> Option<Duration> {
        self.framer.idle_after()
    }

    /// The silence of [`Pipeline::idle_after`] has come.
    pub fn idle(&mut self, sink: &mut dyn FnMut(Output<'_>)) {
        let Pipeline { framer, decoder, readings } = self;
        framer.idle(|event| tell(decoder, readings, event, sink));
    }

    /// The check, where one is declared; `check: append` puts it onto a request.
    pub fn check(&self) -> Option<&Check> {
        self.framer.check()
    }

    /// How many bytes are kept for a frame that is not whole yet.
    pub fn buffered(&self) -> usize {
        self.framer.buffered()
    }
}

fn tell(decoder: &mut Decoder, readings: &mut Vec<Decoded>, event: Event<'_>, sink: &mut dyn FnMut(Output<'_>)) {
    match event {
        Event::Frame(frame) => {
            readings.clear();
            match decoder.decode(&frame, readings) {
                Ok(true) => {
                    let fields = Fields { decoder, frame: &frame };
                    sink(Output::Frame { frame: &frame, readings, fields });
                }
                Ok(false) => sink(Output::NotOurs(&frame)),
                Err(reason) => {
                    sink(Output::Rejected { reason, frame: frame.bytes, bytes: frame.bytes.len() });
                }
            }
        }
        Event::Rejected { reason, frame, bytes } => sink(Output::Rejected { reason, frame, bytes }),
        Event::Dropped(bytes) => sink(Output::Dropped(bytes)),
    }
}
