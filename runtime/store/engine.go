package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// engine is the embedded NATS server and our one connection to it.
type engine struct {
	server *server.Server
	conn   *nats.Conn
	js     jetstream.JetStream
}

// startTimeout bounds the recovery of the streams; a gigabyte after a power
// cut takes seconds.
const startTimeout = 60 * time.Second

// startEngine starts a server over dir that listens nowhere. Its complaints go to log.
func startEngine(dir string, o Options, log *complaints) (*engine, error) {
	s, err := server.NewServer(&server.Options{
		ServerName:             "forefend",
		DontListen:             true,
		NoSigs:                 true,
		NoSystemAccount:        true,
		DisableJetStreamBanner: true,
		JetStream:              true,
		StoreDir:               dir,
		SyncAlways:             !o.Unsynced,
		JetStreamMaxMemory:     1 << 20,
		JetStreamMaxStore:      math.MaxInt64, // each stream has its own bound
		MaxPayload:             MaxRecord + 1<<20,
		MaxPending:             64 << 20,
	})
	if err != nil {
		return nil, fmt.Errorf("start the store's engine: %w", err)
	}
	s.SetLoggerV2(log, false, false, false)
	s.Start()
	e := &engine{server: s}
	if !s.ReadyForConnections(startTimeout) {
		e.stop()
		return nil, errors.New("start the store's engine: not ready in time" + log.suffix())
	}
	e.conn, err = nats.Connect("", nats.InProcessServer(s), nats.Name("forefend"), nats.MaxReconnects(-1))
	if err == nil {
		e.js, err = jetstream.New(e.conn)
	}
	if err != nil {
		e.stop()
		return nil, fmt.Errorf("connect to the store's engine: %w", err)
	}
	return e, nil
}

// stop flushes and ends the server.
func (e *engine) stop() {
	if e.conn != nil {
		e.conn.Close()
	}
	e.server.Shutdown()
	e.server.WaitForShutdown()
}

// openStream opens or creates the stream c describes.
func (e *engine) openStream(ctx context.Context, c jetstream.StreamConfig) (jetstream.Stream, error) {
	s, err := e.js.CreateOrUpdateStream(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", c.Name, err)
	}
	return s, nil
}

// missing lists the streams that have a directory but were not recovered from it.
func (e *engine) missing(ctx context.Context, dir string, configs []jetstream.StreamConfig) []string {
	var out []string
	for _, c := range configs {
		if _, err := os.Stat(streamDir(dir, c.Name)); err != nil {
			continue
		}
		if _, err := e.js.Stream(ctx, c.Name); err != nil {
			out = append(out, c.Name)
		}
	}
	return out
}

// streamDir is where the engine keeps a stream; G is its name for the only account.
func streamDir(dir, stream string) string {
	return filepath.Join(dir, "jetstream", server.DEFAULT_GLOBAL_ACCOUNT, "streams", stream)
}
