//! Character devices: sockets, files, terminals.
