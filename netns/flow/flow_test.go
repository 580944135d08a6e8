package flow

import (
	"encoding/json"
	"testing"
)

func TestEncryption(t *testing.T) {
	for e, word := range map[Encryption]string{None: "none", Standard: "standard", Strong: "strong"} {
		body, err := json.Marshal(Profile{Encryption: e})
		if err != nil || string(body) != `{"encryption":"`+word+`"}` || e.String() != word {
			t.Errorf("%s is %s: %v", e, body, err)
		}
		var p Profile
		if err := json.Unmarshal(body, &p); err != nil || p.Encryption != e {
			t.Errorf("%s became %v: %v", body, p.Encryption, err)
		}
	}
	var e Encryption
	if err := e.UnmarshalText([]byte("rot13")); err == nil {
		t.Error("an unknown word is a level")
	}
	for _, e := range []Encryption{-1, 3} {
		if _, err := e.MarshalText(); err == nil {
			t.Errorf("%s can be written", e)
		}
	}
}

func TestDSCP(t *testing.T) {
	seen := make(map[uint8]string)
	for _, class := range QoSClasses {
		if other, twice := seen[DSCP(class)]; twice {
			t.Errorf("%s and %s have the same code point", class, other)
		}
		seen[DSCP(class)] = class
	}
	if DSCP("") != 0 || DSCP(QoSStandard) != 0 {
		t.Error("the default is not 0")
	}
}

func TestHostText(t *testing.T) {
	for want, c := range map[string]Context{"": {}, "a": {Host: "a"}, "b or c": {Names: []string{"b", "c"}}} {
		if got := c.HostText(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
