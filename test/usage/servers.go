package main

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// server is one run: what is started, and what is asked of it.
type server struct {
	name    string
	root    string // chroot, "" for none
	command []string
	load    func(stop <-chan struct{})
}

func servers(scratch string) []server {
	self, _ := os.Executable()
	var all []server
	port := 21300
	for _, rate := range []int{20, 60, 150} { // KiB/s·10
		all = append(all, redis(scratch, port, fmt.Sprintf("redis-fill-%d", rate), rate, false))
		port++
	}
	all = append(all, redis(scratch, port, "redis-turnover", 300, true))
	port++
	conf := fmt.Sprintf("daemon off; events {} http { access_log off; server { listen 127.0.0.1:%d; location / { return 200 ok; } } }", port)
	_ = os.MkdirAll(filepath.Join(scratch, "nginx/tmp"), 0o777)
	_ = os.WriteFile(filepath.Join(scratch, "nginx/tmp/c.conf"), []byte(conf), 0o644)
	at := port
	all = append(all, server{"nginx-steady", filepath.Join(scratch, "nginx"), []string{"/usr/sbin/nginx", "-c", "/tmp/c.conf", "-e", "stderr", "-g", "pid /tmp/pid;"},
		func(stop <-chan struct{}) { get(stop, at, 20*time.Millisecond) }})
	for _, kind := range []string{"leak", "leak-fast", "sawtooth", "sawtooth-slow", "steps", "plateau", "steady"} {
		all = append(all, server{name: "python-" + kind, command: []string{"python3", "-c", python, kind}})
	}
	for _, kind := range []string{"leak", "garbage", "steady", "leak-garbage"} {
		all = append(all, server{name: "node-" + kind, command: []string{"node", "-e", node, kind}})
	}
	for _, kind := range []string{"leak", "leak-slow", "sawtooth", "steady"} {
		all = append(all, server{name: "go-" + kind, command: []string{self, "-breathe", kind}})
	}
	return all
}

const python = `
import sys,time,random
kind=sys.argv[1]; keep=[]; t0=time.time(); n=0
while True:
    t=time.time()-t0; n+=1
    if kind=='leak': keep.append(bytearray(random.randrange(20,60)<<10))
    if kind=='leak-fast': keep.append(bytearray(random.randrange(150,350)<<10))
    if kind=='sawtooth':
        keep.append(bytearray(300<<10))
        if len(keep)>150: keep=[]
    if kind=='sawtooth-slow':
        keep.append(bytearray(200<<10))
        if len(keep)>500: keep=[]
    if kind=='steps' and n%250==0: keep.append(bytearray(12<<20))
    if kind=='plateau' and t<90: keep.append(bytearray(100<<10))
    x=[random.random() for _ in range(2000)]
    time.sleep(0.1)
`

const node = `
const kind=process.argv[1]; const keep=[];
setInterval(()=>{
  if(kind.startsWith('leak')) keep.push(Buffer.alloc(60*1024+Math.random()*40*1024,1));
  if(kind.endsWith('garbage')) for(let i=0;i<200;i++) JSON.parse(JSON.stringify({a:Array(400).fill('x'+i)}));
},100);
`

func goProgram(kind string) {
	var keep [][]byte
	for i := 0; ; i++ {
		size := map[string]int{"leak": 120 << 10, "leak-slow": 30 << 10}[kind]
		if size > 0 {
			keep = append(keep, make([]byte, size))
		}
		if kind == "sawtooth" {
			for range 40 {
				b := make([]byte, 64<<10)
				b[i%len(b)] = 1
				if keep = append(keep, b); len(keep) > 1500 {
					keep = nil
				}
			}
		}
		for _, b := range keep[max(0, len(keep)-40):] {
			for j := 0; j < len(b); j += 4096 {
				b[j]++
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// redis is filled with rate·10 KiB a second, and bounded to 40 MB if it turns over.
func redis(scratch string, port int, name string, rate int, turnover bool) server {
	command := []string{"/usr/bin/redis-server", "--port", fmt.Sprint(port), "--bind", "127.0.0.1", "--save", "", "--dir", "/tmp"}
	if turnover {
		command = append(command, "--maxmemory", "40mb", "--maxmemory-policy", "allkeys-lru")
	}
	_ = os.MkdirAll(filepath.Join(scratch, "redis/tmp"), 0o777)
	return server{name, filepath.Join(scratch, "redis"), command, func(stop <-chan struct{}) { fill(stop, port, rate) }}
}

func fill(stop <-chan struct{}, port, rate int) {
	var c net.Conn
	var err error
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	value := strings.Repeat("v", 1024)
	var r *bufio.Reader
	for i := 0; ; {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		if c == nil {
			if c, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
				c = nil
				continue
			}
			r = bufio.NewReader(c)
		}
		for range rate {
			key := fmt.Sprintf("key-%d", i)
			i++
			fmt.Fprintf(c, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(key), key, len(value), value)
			if _, err := r.ReadString('\n'); err != nil {
				return
			}
		}
	}
}

func get(stop <-chan struct{}, port int, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			if r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port)); err == nil {
				_, _ = io.Copy(io.Discard, r.Body)
				r.Body.Close()
			}
		}
	}
}

// layersOf lists an image archive's layers, lowest first.
func layersOf(image string) ([]string, error) {
	var manifest []struct{ Layers []string }
	if b, err := exec.Command("tar", "-xOf", image, "manifest.json").Output(); err == nil {
		if err := json.Unmarshal(b, &manifest); err == nil && len(manifest) > 0 {
			return manifest[0].Layers, nil
		}
	}
	blob := func(digest string, v any) error {
		b, err := exec.Command("tar", "-xOf", image, "blobs/"+strings.Replace(digest, ":", "/", 1)).Output()
		if err != nil {
			return err
		}
		return json.Unmarshal(b, v)
	}
	type descriptor struct{ Digest string }
	var index struct{ Manifests []descriptor }
	b, err := exec.Command("tar", "-xOf", image, "index.json").Output()
	if err != nil {
		return nil, fmt.Errorf("%s has no index: %w", image, err)
	}
	if err := json.Unmarshal(b, &index); err != nil || len(index.Manifests) == 0 {
		return nil, fmt.Errorf("%s: no manifest in its index: %v", image, err)
	}
	var one struct{ Layers []descriptor }
	if err := blob(index.Manifests[0].Digest, &one); err != nil {
		return nil, err
	}
	var layers []string
	for _, l := range one.Layers {
		layers = append(layers, "blobs/"+strings.Replace(l.Digest, ":", "/", 1))
	}
	return layers, nil
}

// maybeGzip reads a layer that may be packed.
func maybeGzip(r io.Reader) (io.Reader, error) {
	b := bufio.NewReader(r)
	if magic, err := b.Peek(2); err != nil || magic[0] != 0x1f || magic[1] != 0x8b {
		return b, err
	}
	return gzip.NewReader(b)
}
