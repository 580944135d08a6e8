package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// serve answers HTTP until SIGTERM or SIGINT, and says "ready ADDRESS" once it listens.
func serve(args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	addr := flags.String("addr", ":8080", "")
	if flags.Parse(args) != nil {
		return errUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	fmt.Println("ready", listener.Addr())
	server := &http.Server{Handler: handler()}
	closed := context.AfterFunc(ctx, func() { server.Close() })
	defer closed()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	fmt.Println("bye")
	return nil
}

func handler() http.Handler {
	var mu sync.Mutex // guards held
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/env", func(w http.ResponseWriter, _ *http.Request) {
		for _, e := range os.Environ() {
			fmt.Fprintln(w, e)
		}
	})
	mux.HandleFunc("/attack", func(w http.ResponseWriter, r *http.Request) { // by the server itself, on a thread that is then thrown away
		names := strings.Split(r.FormValue("names"), ",")
		for _, a := range attempts {
			if !slices.Contains(names, a.name) {
				continue
			}
			made := make(chan verdict)
			go func() { made <- a.make() }()
			_ = (<-made).print(w, true)
		}
	})
	mux.HandleFunc("/exec", func(w http.ResponseWriter, r *http.Request) { // as a shell that an intruder spawns
		out, err := exec.Command(r.FormValue("path"), r.Form["arg"]...).CombinedOutput()
		fmt.Fprintf(w, "%s%v\n", out, err)
	})
	mux.HandleFunc("/alloc", func(w http.ResponseWriter, r *http.Request) {
		mib, err := strconv.Atoi(r.FormValue("mb"))
		if err != nil || mib < 0 || mib > 64<<10 {
			http.Error(w, "mb: a number of MiB", http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		allocate(mib)
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("/work", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.FormValue("n"))
		if err != nil {
			http.Error(w, "n: how many times to hash", http.StatusBadRequest)
			return
		}
		sum := sha256.Sum256(nil)
		for range n {
			sum = sha256.Sum256(sum[:])
		}
		fmt.Fprintf(w, "%x\n", sum)
	})
	return mux
}
