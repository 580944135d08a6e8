package notify

import (
	"reflect"
	"strings"
	"testing"

	api "forefend.dev/forefend/agent/api/v1"
)

func TestParse(t *testing.T) {
	for message, want := range map[string][]api.Event{
		"READY=1":                               {{Kind: api.EventReady}},
		"READY=1\n":                             {{Kind: api.EventReady}},
		"READY=0\nWATCHDOG=1\nMAINPID=3":        nil,
		"RELOADING=1\nMONOTONIC_USEC=7":         {{Kind: api.EventReloading}},
		"STOPPING=1\nSTATUS=bye":                {{Kind: api.EventStopping}, {Kind: api.EventStatus, Text: "bye"}},
		"STATUS=a\x1b[31mb":                     {{Kind: api.EventStatus, Text: "a?[31mb"}},
		"FOREFEND_REQUEST=memory=256Mi":         {{Kind: api.EventAsked, Asked: map[string]string{"memory": "256Mi"}}},
		"FOREFEND_REQUEST=pids=7  syscalls/x=y": {{Kind: api.EventAsked, Asked: map[string]string{"pids": "7", "syscalls/x": "y"}}},
		"":                                      nil,
		"nonsense":                              nil,
	} {
		if got, err := Parse([]byte(message)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v", message, got, err)
		}
	}
	for message, why := range map[string]string{
		"STATUS=\xff":                       "not text",
		"STATUS=a\x00b":                     "not text",
		strings.Repeat("x", MaxMessage+1):   "4097 bytes",
		"FOREFEND_REQUEST=":                 "nothing is asked for",
		"FOREFEND_REQUEST=memory":           "is not key=value",
		"FOREFEND_REQUEST=memory=":          "is not key=value",
		"FOREFEND_REQUEST=me mory=1":        "is not key=value",
		"FOREFEND_REQUEST=a=1 a=2":          "a twice",
		"FOREFEND_REQUEST=\x1b=1":           "is not key=value",
		strings.Repeat("READY=1\n", 20):     "more than 16 statements",
		"FOREFEND_REQUEST=" + many("k", 17): "more than 16 settings",
	} {
		if got, err := Parse([]byte(message)); err == nil || !strings.Contains(err.Error(), why) || got != nil {
			t.Errorf("%.40q: %v, %v", message, got, err)
		}
	}
	if got, _ := Parse([]byte("STATUS=" + strings.Repeat("ä", 300))); len(got[0].Text) > maxStatus || !strings.HasPrefix(got[0].Text, "ääää") {
		t.Errorf("status of %d bytes", len(got[0].Text))
	}
}

func many(prefix string, n int) string {
	var words []string
	for i := range n {
		words = append(words, prefix+strings.Repeat("x", i)+"=1")
	}
	return strings.Join(words, " ")
}

// FuzzParse: whatever comes, what is made of it is bounded and fit for a terminal.
func FuzzParse(f *testing.F) {
	f.Add([]byte("READY=1\nSTATUS=up"))
	f.Add([]byte("FOREFEND_REQUEST=memory=1Gi pids=3"))
	f.Add([]byte("STATUS=\xc3\x28\x00"))
	f.Fuzz(func(t *testing.T, message []byte) {
		events, err := Parse(message)
		if err != nil {
			return
		}
		if len(events) > maxSettings {
			t.Errorf("%d events", len(events))
		}
		for _, e := range events {
			if len(e.Text) > maxStatus || len(e.Asked) > maxSettings || strings.ContainsFunc(e.Text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Errorf("%+v", e)
			}
		}
	})
}
