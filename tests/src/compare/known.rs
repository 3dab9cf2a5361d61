//! The differences that are meant, each with the line of docs/nat.md that says why.

use std::collections::BTreeMap;

use netd_common::wire::tcp::{ACK, FIN, RST, SYN};

use super::{
    Family, PUBLISHED, Published,
    story::{Body, Error, Packet, Step, To},
};

/// Of these flags, SYN alone opens a connection.
const OPENS: u8 = SYN | ACK | FIN | RST;

/// What a step had the parties get, behind netd and behind netfilter.
#[derive(Clone, Copy, Debug)]
pub struct Difference<'a> {
    /// What the story is told in.
    pub family: Family,
    /// What was before, since both began with nothing.
    pub before: &'a [Step],
    /// The step.
    pub step: &'a Step,
    /// Behind netd.
    pub netd: &'a [String],
    /// Behind netfilter.
    pub netfilter: &'a [String],
}

/// A difference that is meant.
#[derive(Debug)]
pub struct Known {
    /// The first cell of its line in the table "What netfilter does otherwise" of docs/nat.md.
    pub heading: &'static str,
    /// Whether this is it.
    is: fn(&Difference<'_>) -> bool,
    /// How often the stories that are always played show it, give or take.
    usual: u64,
}

/// What is unusual about how often the known differences were seen in the stories that are always played: something else may have come
/// to pass for one, or what one is about is not reached any more.
#[must_use]
pub fn unusual(seen: &BTreeMap<&'static str, u64>) -> Vec<String> {
    let mut faults = Vec::new();
    for Known { heading, usual, .. } in &KNOWN {
        let count = seen.get(heading).copied().unwrap_or(0);
        // Ports are chosen at random, and what is late is played again.
        if count == 0 || count.abs_diff(*usual) > usual.div_ceil(2).min(1 + usual / 5) {
            faults.push(format!("\"{heading}\" is usually seen {usual} times, not {count}"));
        }
    }
    faults
}

/// All of them.
pub const KNOWN: [Known; 12] = [
    Known { heading: "fragments", is: fragments, usual: 6 },
    Known { heading: "protocols without ports", is: protocols, usual: 2 },
    Known { heading: "ICMP errors of containers", is: spoofed_errors, usual: 2 },
    Known { heading: "an answer whose time is up at the host", is: expired_answers, usual: 3 },
    Known {
        heading: "ICMP other than echo, unreachable, time exceeded, parameter problem",
        is: other_icmp,
        usual: 4,
    },
    Known { heading: "a packet with a wrong checksum", is: spoiled, usual: 2 },
    Known { heading: "what its TCP takes for invalid, or has forgotten", is: invalid_tcp, usual: 33 },
    Known { heading: "the host's errors about packets with options", is: options, usual: 2 },
    Known { heading: "an echo reply that answers nothing", is: stray_replies, usual: 4 },
    Known {
        heading: "a packet between containers by a published port whose time is up",
        is: hairpin_expired,
        usual: 2,
    },
    Known {
        heading: "a client of a published port to whom the container talks already",
        is: published_clash,
        usual: 2,
    },
    Known {
        heading: "a connection to a published port, picked up in the middle",
        is: published_middle,
        usual: 22,
    },
];

impl Difference<'_> {
    /// What a time exceeded in transit is called.
    const fn expired(&self) -> &'static str {
        match self.family {
            Family::V4 => "error 11/0",
            Family::V6 => "error 3/0",
        }
    }

    /// The same for administratively prohibited.
    const fn prohibited(&self) -> &'static str {
        match self.family {
            Family::V4 => "error 3/13",
            Family::V6 => "error 1/1",
        }
    }
}

impl Known {
    /// The known difference that this is.
    #[must_use]
    pub fn find(difference: &Difference<'_>) -> Option<&'static Self> {
        KNOWN.iter().find(|known| (known.is)(difference))
    }
}

fn packet<'a>(difference: &Difference<'a>) -> Option<&'a Packet> {
    match difference.step {
        Step::Packet(packet) => Some(packet),
        _ => None,
    }
}

/// A packet that goes to a published port, and which.
fn visit<'a>(difference: &Difference<'a>) -> Option<(&'a Packet, &'static Published)> {
    let packet = packet(difference)?;
    Some((packet, packet.published()?))
}

/// A packet of a container's to the world, which netfilter has let pass as it is: with the inner address.
fn untranslated(difference: &Difference<'_>) -> bool {
    let [one] = difference.netfilter else { return false };
    let from = packet(difference).map(|packet| packet.from).filter(|from| from.is_container());
    from.is_some_and(|from| {
        (one.starts_with("Server ←") || one.starts_with("Narrow ←")) && one.contains(&format!(" {from:?}"))
    })
}

/// netd has told the container that it may not.
fn prohibited(difference: &Difference<'_>) -> bool {
    matches!(difference.netd, [one] if one.contains("gateway →") && one.contains(difference.prohibited()))
}

fn fragments(difference: &Difference<'_>) -> bool {
    packet(difference).is_some_and(|packet| packet.cut > 0 && packet.reversed)
        && difference.netd.is_empty()
        && difference.netfilter.len() == 1
}

fn protocols(difference: &Difference<'_>) -> bool {
    packet(difference).is_some_and(|packet| matches!(packet.body, Body::Other { .. }))
        && prohibited(difference)
}

/// Netfilter has passed it on: as the host's, if it is about another container's flow, or as it is, if it is about none.
fn spoofed_errors(difference: &Difference<'_>) -> bool {
    let Step::Error(error) = difference.step else { return false };
    let [one] = difference.netfilter else { return false };
    let leaks = one.contains(&format!("ICMP {:?} →", error.from));
    let as_host = one.contains("ICMP node →") && error.from != error.about;
    error.from.is_container()
        && difference.netd.is_empty()
        && is_error(difference.family, error, one)
        && (leaks || as_host)
}

/// Whether somebody has got an error of this kind.
fn is_error(family: Family, error: &Error, one: &str) -> bool {
    let kind = error.kind_in(family).map(|(kind, code, _)| format!(" error {kind}/{code} "));
    kind.is_some_and(|kind| one.contains(&kind)) && one.contains(" quoting [")
}

/// The same for the first packet to a published port, for which the host answers with its last hop.
fn expired_answers(difference: &Difference<'_>) -> bool {
    let Some(packet) = packet(difference) else { return false };
    let refused = match difference.netd {
        [] => true,
        [one] => is_refused(packet, one),
        _ => false,
    };
    !packet.from.is_container()
        && packet.ttl == 2
        && refused
        && matches!(difference.netfilter, [one] if one.contains(difference.expired()) && one.contains("node →"))
}

/// Netfilter has translated it.
fn other_icmp(difference: &Difference<'_>) -> bool {
    let [one] = difference.netfilter else { return false };
    let translated = match difference.step {
        Step::Packet(Packet { body: Body::Icmp { .. }, to: To::Party(to), .. }) => {
            one.starts_with(&format!("{to:?} ← ICMP node → {to:?} "))
        }
        Step::Error(error) if error.kind.0 == 4 => {
            let inner = format!("ICMP {:?} →", error.from);
            is_error(difference.family, error, one) && one.contains(&inner) != error.from.is_container()
        }
        _ => false,
    };
    translated && difference.netd.is_empty()
}

fn spoiled(difference: &Difference<'_>) -> bool {
    packet(difference).is_some_and(|packet| packet.spoiled)
        && untranslated(difference)
        && matches!(difference.netd, [one] if one.contains("node for") && one.contains("WRONG CHECKSUM"))
}

/// From a container: with the inner address; to it: to the host itself, which resets it. A SYN that is followed by a reset
/// is forgotten.
fn invalid_tcp(difference: &Difference<'_>) -> bool {
    if let Step::Error(error) = difference.step {
        return about_forgotten(difference, error);
    }
    let Some(packet) = packet(difference) else { return false };
    let Body::Tcp { .. } = packet.body else { return false };
    if answers_as_another(difference) || comes_as_another(difference) || invalid_visit(difference) {
        return true;
    }
    let inward = matches!(packet.to, To::Flow(_));
    // Those whose time is up on the way tell the same by what comes back.
    let passes = match difference.netd {
        [] => inward && packet.ttl == 2,
        [one] => {
            let translated =
                one.contains("node for") || PUBLISHED.iter().any(|port| one.contains(&from_port(port)));
            inward || translated || packet.ttl == 2 && one.contains(difference.expired())
        }
        _ => false,
    };
    let refused = match difference.netfilter {
        [] => inward || packet.ttl == 2,
        [one] if inward => {
            one.starts_with(&format!("{:?} ← TCP node", packet.from)) && one.contains(" R")
                || went_to_another(difference)
        }
        _ => untranslated(difference),
    };
    passes && refused
}

/// Whether there has been a reset, after which netfilter may have forgotten a connection.
fn was_reset(difference: &Difference<'_>) -> bool {
    difference.before.iter().any(|step| match step {
        Step::Packet(Packet { body: Body::Tcp { flags, .. }, .. }) => flags & RST != 0,
        _ => false,
    })
}

/// Netfilter has forgotten a connection, and given its port to the other container.
fn went_to_another(difference: &Difference<'_>) -> bool {
    let receiver = |lines: &[String]| match lines {
        [one] => ["A ←", "B ←"].into_iter().find(|name| one.starts_with(name)),
        _ => None,
    };
    let both = receiver(difference.netd).zip(receiver(difference.netfilter));
    was_reset(difference) && both.is_some_and(|(netd, netfilter)| netd != netfilter)
}

/// How a packet of the container's begins that leaves by its published port.
fn from_port(published: &Published) -> String {
    format!("← TCP node:{} → ", published.port)
}

/// Netfilter has forgotten a client of a published port's, and what the container still sends it has begun a connection of its own.
fn answers_as_another(difference: &Difference<'_>) -> bool {
    let both = [difference.netd, difference.netfilter].map(|lines| match lines {
        [one] => one.as_str(),
        _ => "",
    });
    let is_port = |one: &Published| {
        let own = format!("← TCP node for {:?}:{} → ", one.owner, one.inner);
        both[0].contains(&from_port(one)) && both[1].contains(&own)
    };
    was_reset(difference) && PUBLISHED.iter().any(is_port)
}

/// The same, and what the client still sends gets another port, as that connection of the container's has the client's.
fn comes_as_another(difference: &Difference<'_>) -> bool {
    let Some((packet, _)) = visit(difference) else { return false };
    let own = format!("← TCP {:?}:{} → ", packet.from, packet.body.source());
    was_reset(difference)
        && is_delivered(packet, difference.netd)
        && is_delivered(packet, difference.netfilter)
        && matches!((difference.netd, difference.netfilter), ([netd], [other]) if netd.contains(&own) && !other.contains(&own))
}

/// A client's of a published port: what it sends before it is answered, other than a SYN, is invalid.
fn invalid_visit(difference: &Difference<'_>) -> bool {
    let Some((packet, _)) = visit(difference) else { return false };
    let Body::Tcp { flags, .. } = packet.body else { return false };
    let refused = match difference.netfilter {
        // Nobody resets a reset.
        [] => flags & RST != 0,
        [one] => is_refused(packet, one),
        _ => false,
    };
    flags & OPENS != SYN && refused && is_delivered(packet, difference.netd)
}

/// An error about a packet of a connection that a reset has ended before it began.
fn about_forgotten(difference: &Difference<'_>, error: &Error) -> bool {
    let inner = format!(" {:?} →", error.from);
    // To another container by a published port: the host has got it, and said nothing.
    let across = |one: &str| one.contains(" node → ") || one.contains(" gateway → ");
    let gone = match difference.netfilter {
        [] => !error.from.is_container() || difference.netd.iter().all(|one| across(one)),
        [one] => error.from.is_container() && one.contains(&inner) || went_to_another(difference),
        _ => false,
    };
    was_reset(difference) && gone && matches!(difference.netd, [one] if one.contains("quoting [TCP"))
}

fn options(difference: &Difference<'_>) -> bool {
    packet(difference).is_some_and(|packet| packet.options && packet.ttl == 1)
        && difference.netd.is_empty()
        && matches!(difference.netfilter, [one] if one.contains("gateway →") && one.contains(difference.expired()))
}

fn stray_replies(difference: &Difference<'_>) -> bool {
    packet(difference).is_some_and(|packet| {
        packet.from.is_container() && matches!(packet.body, Body::Echo { reply: true, .. })
    }) && untranslated(difference)
        && prohibited(difference)
}

/// Whether what goes to a published port has come to the container.
fn is_delivered(packet: &Packet, lines: &[String]) -> bool {
    let Some(Published { owner, inner, .. }) = packet.published() else { return false };
    matches!(lines, [one] if one.starts_with(&format!("{owner:?} ← TCP ")) && one.contains(&format!(" → {owner:?}:{inner} ")))
}

/// Whether the host resets what goes to a published port.
fn is_refused(packet: &Packet, one: &str) -> bool {
    let Some(published) = packet.published() else { return false };
    let by_host = format!(":{} → ", published.port);
    one.starts_with(&format!("{:?} ← TCP ", packet.from)) && one.contains(&by_host) && one.contains(" R")
}

/// From the address of the host's that the packet was to. About a packet with options netd says nothing.
fn hairpin_expired(difference: &Difference<'_>) -> bool {
    let Some(packet) = packet(difference).filter(|packet| packet.from.is_container() && packet.ttl == 1)
    else {
        return false;
    };
    let by_port = match packet.to {
        To::Flow(flow) => flow.remote.is_container(),
        _ => packet.published().is_some(),
    };
    let expired = |one: &str, from| one.contains(difference.expired()) && one.contains(from);
    let told = match difference.netd {
        [] => packet.options,
        [one] => expired(one, "gateway →"),
        _ => false,
    };
    by_port && told && matches!(difference.netfilter, [one] if expired(one, "node →"))
}

/// The container has sent from its own port to the client's, without a client's flow, and so has another port of the host's there.
fn published_clash(difference: &Difference<'_>) -> bool {
    let Some((packet, published)) = visit(difference) else { return false };
    let owner = published.owner;
    let to_client = |step: &Step| match step {
        Step::Packet(sent) if sent.from == owner && sent.to == To::Party(packet.from) => match sent.body {
            Body::Tcp { destination, .. } | Body::Udp { destination, .. } => {
                destination == packet.body.source()
            }
            _ => false,
        },
        _ => false,
    };
    difference.before.iter().any(to_client)
        && difference.netd.is_empty()
        && matches!(difference.netfilter, [one] if one.starts_with(&format!("{owner:?} ← ")) && one.contains(&format!(" {:?}:", packet.from)))
}

/// Netfilter takes any segment for the beginning of a connection; to netd, that is a SYN, and all else the host's, which resets it.
fn published_middle(difference: &Difference<'_>) -> bool {
    let Some((packet, _)) = visit(difference) else { return false };
    let Body::Tcp { flags, .. } = packet.body else { return false };
    let refused = match difference.netd {
        // Nobody resets a reset.
        [] => flags & RST != 0,
        [one] => is_refused(packet, one),
        _ => false,
    };
    // The host itself is reached with the last hop, as no container is.
    let expired =
        matches!(difference.netfilter, [one] if packet.ttl == 1 && one.contains(difference.expired()));
    flags & OPENS != SYN && refused && (expired || is_delivered(packet, difference.netfilter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unusual_is_told() {
        let usual: BTreeMap<_, _> = KNOWN.iter().map(|known| (known.heading, known.usual)).collect();
        assert_eq!(unusual(&usual), [""; 0]);
        assert_eq!(unusual(&BTreeMap::new()).len(), KNOWN.len());
        let more = usual.iter().map(|(heading, count)| (*heading, count * 2)).collect();
        assert_eq!(unusual(&more).len(), KNOWN.len());
    }
}
