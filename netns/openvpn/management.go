package openvpn

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// event is a line that the management interface sends by itself: ">STATE:…" is of kind STATE.
type event struct{ kind, text string }

// parseEvent reads a line; ok is false for answers to commands.
func parseEvent(line string) (e event, ok bool) {
	line, ok = strings.CutPrefix(line, ">")
	if !ok {
		return event{}, false
	}
	e.kind, e.text, ok = strings.Cut(line, ":")
	return e, ok
}

// state is a STATE event (openvpn's management-notes.txt, "state").
type state struct {
	name      string // CONNECTED, RECONNECTING, …
	detail    string
	addresses []netip.Addr // of the TUN
}

func parseState(text string) state {
	fields := strings.Split(text, ",")
	at := func(n int) string {
		if n < len(fields) {
			return fields[n]
		}
		return ""
	}
	s := state{name: at(1), detail: at(2)}
	for _, n := range []int{3, 8} { // of IPv4 and IPv6
		if a, err := netip.ParseAddr(at(n)); err == nil && a.Zone() == "" {
			s.addresses = append(s.addresses, a.Unmap())
		}
	}
	return s
}

// parseBytes reads what came in of a BYTECOUNT event.
func parseBytes(text string) (in uint64, ok bool) {
	first, _, _ := strings.Cut(text, ",")
	in, err := strconv.ParseUint(first, 10, 64)
	return in, err == nil
}

// causes are what openvpn logs where a connection comes to nothing, and what that means. The first that fits is told.
var causes = []struct{ logged, means string }{
	{"certificate hash verification failed", "the gateway's certificate has not the fingerprint that peer_fingerprints names"},
	{"VERIFY X509NAME ERROR", "the gateway's certificate has another name than peer_name says"},
	{"VERIFY EKU ERROR", "the gateway's certificate is none of a server"},
	{"VERIFY KU ERROR", "the gateway's certificate is none of a server"},
	{"certificate has expired", "a certificate has expired"},
	{"VERIFY ERROR", "the gateway's certificate is not of the ca_file's authority"},
	{"alert unknown ca", "the gateway does not know the authority of this slot's certificate"},
	{"alert certificate revoked", "the gateway has revoked this slot's certificate"},
	{"alert certificate expired", "this slot's certificate has expired"},
	{"alert bad certificate", "the gateway does not take this slot's certificate"},
	{"AUTH_FAILED", "the gateway refuses this slot: it asks for a password, or its own rules forbid it"},
	{"key values mismatch", "the slot's key does not belong to its certificate"},
	{"Cannot load private key", "the slot's key does not belong to its certificate, or is none"},
	{"Cannot load inline certificate", "the slot's certificate is none"},
	{"Cannot load CA certificate", "the ca_file has no certificate"},
	{"tls-crypt unwrapping failed", "the gateway has another tls_crypt_file"},
	{"tls-crypt unwrap error", "the gateway has another tls_crypt_file"},
	{"ADDR refused", "the gateway's address is not reachable"},
	{"Inactivity timeout", "nothing was heard of the gateway"},
	{"state ping-restart", "nothing was heard of the gateway"},
	{"Connection refused", "nobody listens at the gateway's port"},
	{"Network is unreachable", "the gateway's network is unreachable"},
	{"VERIFY OK: depth=0", "the gateway does not take this slot's certificate: it fell silent when it saw it"},
	{"TLS key negotiation failed", "the gateway does not answer, or does not know this slot's certificate"},
}

// logged is the text of a LOG event, whose time and flags do not matter.
func logged(text string) string {
	_, text, _ = strings.Cut(text, ",")
	_, text, _ = strings.Cut(text, ",")
	return text
}

// cause is what a log line means, "" for most.
func cause(line string) (means string, rank int) {
	for i, c := range causes {
		if strings.Contains(line, c.logged) {
			return c.means, i
		}
	}
	return "", len(causes)
}

// clip makes what a program has said fit for a line of a log.
func clip(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	if len(text) > 200 {
		text = text[:200] + "…"
	}
	return text
}

// remote is the answer to a REMOTE event: the endpoint that is meant now.
func remote(to netip.AddrPort) string {
	return fmt.Sprintf("remote MOD %s %d", to.Addr(), to.Port())
}
