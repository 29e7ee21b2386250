//! QMP framing, sessions, dispatch, events, descriptor passing, and a typed client.
