//! `-L`: what another server offers.

use block::Graph;
use block_net::nbd::list::{Offer, list};
use block_net::nbd::wire::HAS_FLAGS;
use block_net::tls::client_credentials;
use block_net::transport::Address;
use block_tools::{open, secret};

use crate::cli::Line;

/// The names of transmission flags, by their bits.
const FLAGS: [&str; 12] =
    ["", "readonly", "flush", "fua", "rotational", "trim", "zeroes", "df", "multi", "resize", "cache", "fast-zero"];

/// Prints the list.
pub async fn run(line: &Line) -> Result<(), String> {
    let graph = Graph::new(block_drivers::registry());
    for object in &line.objects {
        secret::add_object(&graph, object).map_err(|error| error.to_string())?;
    }
    let (host, port) = line.tcp();
    let address = match &line.socket {
        Some(path) => Address::Unix { path: path.clone() },
        None => {
            let port = port.parse().map_err(|_| format!("address resolution failed for {host}:{port}"))?;
            Address::Tcp { host: host.clone(), port }
        }
    };
    let credentials = match &line.tls_creds {
        None => None,
        Some(id) => Some(client_credentials(&graph, id).map_err(|error| format!("Failed to get TLS creds: {error}"))?),
    };
    let name = line.tls_hostname.as_ref().or(line.bind.as_ref()).map_or("localhost", String::as_str);
    let tls = credentials.as_ref().map(|credentials| (credentials, name));
    let offers = list(&address, tls).await.map_err(|error| open::text_with_hint(&error))?;
    println!("exports available: {}", offers.len());
    for offer in &offers {
        print!("{}", describe(offer));
    }
    Ok(())
}

fn describe(offer: &Offer) -> String {
    let mut text = format!(" export: '{}'\n", offer.name);
    if !offer.description.is_empty() {
        text += &format!("  description: {}\n", offer.description);
    }
    if offer.flags & HAS_FLAGS != 0 {
        let set = FLAGS.iter().enumerate().filter(|(bit, name)| !name.is_empty() && offer.flags >> bit & 1 != 0);
        let names: String = set.map(|(_, name)| format!(" {name}")).collect();
        text += &format!("  size:  {}\n  flags: 0x{:x} ({names} )\n", offer.size, offer.flags);
    }
    let [smallest, best, longest] = offer.block_sizes;
    if smallest != 0 {
        text += &format!("  min block: {smallest}\n  opt block: {best}\n  max block: {longest}\n");
    }
    if !offer.contexts.is_empty() {
        text += &format!("  available meta contexts: {}\n", offer.contexts.len());
        text.extend(offer.contexts.iter().map(|context| format!("   {context}\n")));
    }
    text
}
