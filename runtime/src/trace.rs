//! W3C trace context: the `traceparent` that travels from the submit to the agent's span.
//!
//! Pure ids on the API types of `opentelemetry`; exporting them is not done here. A wrong header
//! never fails a job: it starts a new trace.
//!
//! Format: <https://www.w3.org/TR/trace-context/#traceparent-header>, version 00.

use async_nats::HeaderMap;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// Header name, on NATS messages and in HTTP.
pub use muster_schemas::headers::TRACEPARENT;

/// A `traceparent` that breaks the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TraceparentError {
    /// Not 55 characters in four parts.
    #[error("traceparent is not of the form 00-<32 hex>-<16 hex>-<2 hex>")]
    Shape,
    /// A version other than 00.
    #[error("traceparent has a version other than 00")]
    Version,
    /// Something else than lower-case hexadecimal digits.
    #[error("traceparent has other characters than lower-case hexadecimal digits")]
    Digits,
    /// A trace id or span id of zeros only.
    #[error("traceparent has an id of zeros")]
    Zero,
}

/// The span that this process works in: its trace, its own id, and its parent's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    span: SpanContext,
    parent: Option<SpanId>,
}

impl TraceContext {
    /// A new trace, sampled.
    #[must_use]
    pub fn new_root() -> Self {
        Self { span: local(random_trace_id(), random_span_id(), TraceFlags::SAMPLED), parent: None }
    }

    /// A new span below the caller's; a new trace when there is no header or it is wrong.
    #[must_use]
    pub fn from_header(traceparent: Option<&str>) -> Self {
        match traceparent.map(parse) {
            Some(Ok(remote)) => Self::below(&remote),
            Some(Err(error)) => {
                tracing::debug!(%error, "starting a new trace");
                Self::new_root()
            }
            None => Self::new_root(),
        }
    }

    /// A new span below the one that published this message.
    #[must_use]
    pub fn from_message(headers: Option<&HeaderMap>) -> Self {
        let header = headers.and_then(|headers| headers.get(TRACEPARENT));
        Self::from_header(header.map(|value| value.as_str()))
    }

    /// A new span below this one.
    #[must_use]
    pub fn child(&self) -> Self {
        Self::below(&self.span)
    }

    /// The `traceparent` for what this span calls.
    #[must_use]
    pub fn to_header(&self) -> String {
        format(&self.span)
    }

    /// Sets the `traceparent` of a message, replacing one that is there.
    pub fn write_to(&self, headers: &mut HeaderMap) {
        headers.insert(TRACEPARENT, self.to_header());
    }

    /// The trace's id. Displays as 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> TraceId {
        self.span.trace_id()
    }

    /// This span's id. Displays as 16 hexadecimal digits.
    #[must_use]
    pub fn span_id(&self) -> SpanId {
        self.span.span_id()
    }

    /// The id of the span above, if any.
    #[must_use]
    pub fn parent_id(&self) -> Option<SpanId> {
        self.parent
    }

    /// The span as `opentelemetry` sees it.
    #[must_use]
    pub fn span_context(&self) -> &SpanContext {
        &self.span
    }

    fn below(parent: &SpanContext) -> Self {
        Self { span: local(parent.trace_id(), random_span_id(), parent.trace_flags()), parent: Some(parent.span_id()) }
    }
}

/// Makes a tracing span at INFO with the ids of a [`TraceContext`], so that they show on every log
/// line inside it: `span!(context, "attempt", job_id = %id, number = 1)`.
#[macro_export]
macro_rules! span {
    ($context:expr, $name:literal $(, $($fields:tt)*)?) => {{
        let context: &$crate::trace::TraceContext = &$context;
        $crate::__tracing::info_span!(
            $name,
            trace_id = %context.trace_id(),
            span_id = %context.span_id(),
            $($($fields)*)?
        )
    }};
}

/// Parses a `traceparent` strictly. Of the flags only `sampled` is kept, as the format asks of
/// who passes them on.
///
/// # Errors
/// What is wrong with it.
pub fn parse(traceparent: &str) -> Result<SpanContext, TraceparentError> {
    let mut parts = traceparent.split('-');
    let (Some(version), Some(trace), Some(span), Some(flags), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TraceparentError::Shape);
    };
    if [version.len(), trace.len(), span.len(), flags.len()] != [2, 32, 16, 2] {
        return Err(TraceparentError::Shape);
    }
    let lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if ![version, trace, span, flags].iter().all(|part| part.bytes().all(lower_hex)) {
        return Err(TraceparentError::Digits);
    }
    if version != "00" {
        return Err(TraceparentError::Version);
    }
    let trace = TraceId::from_hex(trace).map_err(|_| TraceparentError::Digits)?;
    let span = SpanId::from_hex(span).map_err(|_| TraceparentError::Digits)?;
    let flags = u8::from_str_radix(flags, 16).map_err(|_| TraceparentError::Digits)?;
    if trace == TraceId::INVALID || span == SpanId::INVALID {
        return Err(TraceparentError::Zero);
    }
    let flags = TraceFlags::new(flags) & TraceFlags::SAMPLED;
    Ok(SpanContext::new(trace, span, flags, true, TraceState::NONE))
}

fn format(span: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8())
}

fn local(trace: TraceId, span: SpanId, flags: TraceFlags) -> SpanContext {
    SpanContext::new(trace, span, flags, false, TraceState::NONE)
}

fn random_trace_id() -> TraceId {
    TraceId::from(rand::random::<u128>().max(1))
}

fn random_span_id() -> SpanId {
    SpanId::from(rand::random::<u64>().max(1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_child_keeps_the_trace_and_names_its_parent() {
        let context = TraceContext::from_header(Some(GOOD));
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.parent_id().unwrap().to_string(), "00f067aa0ba902b7");
        assert_ne!(Some(context.span_id()), context.parent_id());
        let child = context.child();
        assert_eq!(child.trace_id(), context.trace_id());
        assert_eq!(child.parent_id(), Some(context.span_id()));
    }

    #[test]
    fn everything_but_the_exact_form_is_refused() {
        use TraceparentError::{Digits, Shape, Version, Zero};
        for (header, error) in [
            ("", Shape),
            ("00", Shape),
            (&GOOD[..54], Shape),
            (&format!("{GOOD}-00"), Shape),
            (&format!(" {GOOD}"), Shape),
            ("00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01", Shape),
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Version),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Version),
            (&GOOD.to_uppercase(), Digits),
            ("00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Digits),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x", Digits),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", Zero),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", Zero),
        ] {
            assert_eq!(parse(header), Err(error), "{header:?}");
            assert_eq!(TraceContext::from_header(Some(header)).parent_id(), None);
        }
    }

    #[test]
    fn only_the_sampled_flag_is_passed_on() {
        let not_sampled = GOOD.replace("-01", "-00");
        assert!(TraceContext::from_header(Some(&not_sampled)).to_header().ends_with("-00"));
        let all_flags = GOOD.replace("-01", "-ff");
        assert!(TraceContext::from_header(Some(&all_flags)).to_header().ends_with("-01"));
    }

    #[test]
    fn it_travels_in_message_headers() {
        let sender = TraceContext::new_root();
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, "stale");
        sender.write_to(&mut headers);
        let receiver = TraceContext::from_message(Some(&headers));
        assert_eq!(receiver.trace_id(), sender.trace_id());
        assert_eq!(receiver.parent_id(), Some(sender.span_id()));
        assert_eq!(TraceContext::from_message(None).parent_id(), None);
    }

    #[test]
    fn a_span_takes_further_fields() {
        let context = TraceContext::new_root();
        let _ = crate::span!(context, "request");
        let _ = crate::span!(&context, "attempt", job_id = %"j", number = 1);
    }

    proptest! {
        #[test]
        fn every_span_is_read_back_as_it_was_written(trace in 1..u128::MAX, span in 1..u64::MAX, sampled: bool) {
            let flags = if sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
            let header = format(&local(TraceId::from(trace), SpanId::from(span), flags));
            let back = parse(&header).unwrap();
            prop_assert_eq!(back.trace_id(), TraceId::from(trace));
            prop_assert_eq!(back.span_id(), SpanId::from(span));
            prop_assert_eq!(back.trace_flags(), flags);
            prop_assert!(back.is_remote());
        }

        #[test]
        fn no_header_makes_the_parser_panic(header in ".*", near in "[0-9a-fA-F-]{0,60}") {
            let _ = TraceContext::from_header(Some(&header));
            let _ = TraceContext::from_header(Some(&near));
        }
    }
}
