//! The differences that are meant, each with the line of docs/nat.md that says why.

use netd_common::wire::tcp::RST;

use super::story::{Body, Error, Packet, Step, To};

/// What a step had the parties get, behind netd and behind netfilter.
#[derive(Clone, Copy, Debug)]
pub struct Difference<'a> {
    /// What was before.
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
}

/// All of them.
pub const KNOWN: [Known; 9] = [
    Known { heading: "fragments", is: fragments },
    Known { heading: "protocols without ports", is: protocols },
    Known { heading: "ICMP errors of containers", is: spoofed_errors },
    Known { heading: "an answer whose time is up at the host", is: expired_answers },
    Known { heading: "ICMP other than echo, unreachable, time exceeded, parameter problem", is: other_icmp },
    Known { heading: "a packet with a wrong checksum", is: spoiled },
    Known { heading: "what its TCP takes for invalid, or has forgotten", is: invalid_tcp },
    Known { heading: "the host's errors about packets with options", is: options },
    Known { heading: "an echo reply that answers nothing", is: stray_replies },
];

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
    matches!(difference.netd, [one] if one.contains("gateway →") && one.contains("error 3/13"))
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

fn spoofed_errors(difference: &Difference<'_>) -> bool {
    let Step::Error(error) = difference.step else { return false };
    let inner = format!(" {:?} →", error.from);
    let leaks = matches!(difference.netfilter, [one] if one.contains(&inner));
    error.from.is_container()
        && difference.netd.is_empty()
        && (error.from != error.about || error.other_port || leaks)
}

fn expired_answers(difference: &Difference<'_>) -> bool {
    packet(difference).is_some_and(|packet| !packet.from.is_container() && packet.ttl == 2)
        && difference.netd.is_empty()
        && matches!(difference.netfilter, [one] if one.contains("error 11/0") && one.contains("node →"))
}

fn other_icmp(difference: &Difference<'_>) -> bool {
    match difference.step {
        Step::Packet(packet) => matches!(packet.body, Body::Icmp { .. }) && difference.netd.is_empty(),
        Step::Error(error) => error.kind.0 == 4 && difference.netd.is_empty(),
        Step::Expire => false,
    }
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
    let inward = matches!(packet.to, To::Flow(_));
    // Those whose time is up on the way tell the same by what comes back.
    let passes = match difference.netd {
        [] => inward && packet.ttl == 2,
        [one] => inward || one.contains("node for") || packet.ttl == 2 && one.contains("error 11/0"),
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

/// An error about a packet of a connection that a reset has ended before it began.
fn about_forgotten(difference: &Difference<'_>, error: &Error) -> bool {
    let inner = format!(" {:?} →", error.from);
    let gone = match difference.netfilter {
        [] => !error.from.is_container(),
        [one] => error.from.is_container() && one.contains(&inner) || went_to_another(difference),
        _ => false,
    };
    was_reset(difference) && gone && matches!(difference.netd, [one] if one.contains("quoting [TCP"))
}

fn options(difference: &Difference<'_>) -> bool {
    packet(difference).is_some_and(|packet| packet.options && packet.ttl == 1)
        && difference.netd.is_empty()
        && matches!(difference.netfilter, [one] if one.contains("gateway →") && one.contains("error 11/0"))
}

fn stray_replies(difference: &Difference<'_>) -> bool {
    packet(difference).is_some_and(|packet| {
        packet.from.is_container() && matches!(packet.body, Body::Echo { reply: true, .. })
    }) && untranslated(difference)
        && prohibited(difference)
}
