package main

import (
	"cmp"
	"os"
	"sync"
	"time"

	"github.com/containerd/log"

	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/netns/intercept/bearer"
	"forefend.dev/forefend/runtime/stamps"
)

// keysEvery is how often files of keys are looked at, at most.
const keysEvery = time.Second

// tokens verifies the tokens that agents say prove a user, by the site's keys as they are now. It may be used from any goroutine.
type tokens struct {
	cfg config.Tokens

	mu       sync.Mutex
	looked   time.Time               // guarded by mu
	files    map[string]stamps.Stamp // as they were when the verifier was made; guarded by mu
	verifier *bearer.Verifier        // nil: the keys were not read yet; guarded by mu
}

// user is the subject of a token that is valid now.
func (t *tokens) user(now time.Time, token string) (user string, ok bool) {
	return t.current(now).User(now, []byte(token))
}

// current is the verifier by the keys that there are.
func (t *tokens) current(now time.Time) *bearer.Verifier {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.verifier != nil && now.Sub(t.looked) < keysEvery {
		return t.verifier
	}
	t.looked = now
	files := make(map[string]stamps.Stamp)
	same := t.verifier != nil
	for _, k := range t.cfg.Keys {
		info, err := os.Stat(k.File)
		if err != nil {
			continue // it has no key then, as for the agents to come
		}
		files[k.File] = stamps.Of(info)
		before, known := t.files[k.File]
		same = same && known && before.Same(files[k.File])
	}
	if same && len(files) == len(t.files) {
		return t.verifier
	}
	t.files = files
	t.verifier = bearer.New(bearer.Config{Keys: t.keys(), Issuer: t.cfg.Issuer, Audience: t.cfg.Audience})
	return t.verifier
}

func (t *tokens) keys() (keys []bearer.Key) {
	for _, k := range t.cfg.Keys {
		text, err := os.ReadFile(k.File)
		var key bearer.Key
		if err == nil {
			key, err = bearer.ParseKey(k.ID, text)
		}
		if err != nil {
			log.L.WithError(err).WithField("file", k.File).Warn("forefend daemon: a key of tokens cannot be used: " + cmp.Or(k.ID, "without an id"))
			continue
		}
		keys = append(keys, key)
	}
	return keys
}
