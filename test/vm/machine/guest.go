package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"forefend.dev/forefend/test/vm/wire"
)

// errRefused means that the guest came up and could not do what was asked; trying again would not help.
var errRefused = errors.New("the guest cannot run this")

// guestSide is the conversation with one guest.
type guestSide struct {
	m       Machine
	request wire.Request
	booted  func() // called once the first step runs
	started atomic.Bool
	result  wire.Result // once talk has returned nil
}

// talk serves one guest until it has told its result.
func (g *guestSide) talk(listener *net.UnixListener) error {
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	c := wire.New(conn)
	for {
		if g.started.Load() {
			if err := conn.SetReadDeadline(time.Now().Add(g.m.Silence)); err != nil {
				return err
			}
		}
		kind, body, err := c.Read()
		if err, ok := errors.AsType[net.Error](err); ok && err.Timeout() {
			return fmt.Errorf("no sign of life for %s", g.m.Silence)
		}
		if err != nil {
			return fmt.Errorf("the guest ended without a result: %w", err)
		}
		switch kind {
		case wire.Hello:
			err = c.WriteJSON(wire.Run, g.request)
		case wire.Started:
			g.started.Store(true)
			g.booted()
		case wire.Alive:
		case wire.Out:
			_, err = g.m.Stdout.Write(body)
		case wire.Err:
			_, err = g.m.Stderr.Write(body)
		case wire.Failed:
			return fmt.Errorf("%w: %s", errRefused, body)
		case wire.Exit:
			return json.Unmarshal(body, &g.result)
		default:
			err = fmt.Errorf("unknown frame %q", kind)
		}
		if err != nil {
			return err
		}
	}
}
