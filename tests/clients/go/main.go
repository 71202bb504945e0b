// Kubernetes' own client library as a program: exec, attach and port-forward against the URLs of an API server.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

// sizes are those of a terminal, one after the other; the last of them stays.
type sizes struct {
	left []remotecommand.TerminalSize
	done <-chan struct{}
}

func (s *sizes) Next() *remotecommand.TerminalSize {
	if len(s.left) == 0 {
		<-s.done
		return nil
	}
	size := s.left[0]
	s.left = s.left[1:]
	return &size
}

func parseSizes(text string, done <-chan struct{}) (*sizes, error) {
	queue := &sizes{done: done}
	for _, word := range strings.Fields(text) {
		var size remotecommand.TerminalSize
		if _, err := fmt.Sscanf(word, "%dx%d", &size.Width, &size.Height); err != nil {
			return nil, fmt.Errorf("size %q: %w", word, err)
		}
		queue.left = append(queue.left, size)
	}
	return queue, nil
}

func run(config *rest.Config, url *url.URL, transport string, options remotecommand.StreamOptions) error {
	executor, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, url)
	if transport == "websocket" {
		executor, err = remotecommand.NewWebSocketExecutor(config, http.MethodGet, url.String())
	}
	if err != nil {
		return err
	}
	return executor.StreamWithContext(context.Background(), options)
}

func forward(config *rest.Config, url *url.URL, transport string, ports []string) error {
	roundTripper, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return err
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: roundTripper}, http.MethodPost, url)
	if transport == "websocket" {
		if dialer, err = portforward.NewSPDYOverWebsocketDialer(url, config); err != nil {
			return err
		}
	}
	forwarder, err := portforward.NewOnAddresses(
		dialer, []string{"127.0.0.1"}, ports, nil, make(chan struct{}), os.Stdout, os.Stderr)
	if err != nil {
		return err
	}
	return forwarder.ForwardPorts()
}

func do() error {
	server := flag.String("server", "", "the API server")
	transport := flag.String("transport", "spdy", "spdy or websocket")
	verb := flag.String("verb", "exec", "exec, attach or portforward")
	pod := flag.String("pod", "", "NAMESPACE/POD")
	container := flag.String("container", "", "the container")
	stdin := flag.Bool("stdin", false, "pass stdin on")
	tty := flag.Bool("tty", false, "on a terminal")
	size := flag.String("sizes", "", "sizes of the terminal, WIDTHxHEIGHT each")
	flag.Parse()

	namespace, name, _ := strings.Cut(*pod, "/")
	target, err := url.Parse(*server + "/api/v1/namespaces/" + namespace + "/pods/" + name + "/" + *verb)
	if err != nil {
		return err
	}
	config := &rest.Config{Host: *server}
	if *verb == "portforward" {
		return forward(config, target, *transport, flag.Args())
	}
	query := url.Values{"container": {*container}, "stdout": {"true"}}
	options := remotecommand.StreamOptions{Stdout: os.Stdout, Tty: *tty}
	if *verb == "exec" {
		query["command"] = flag.Args()
	}
	if *stdin {
		query.Set("stdin", "true")
		options.Stdin = os.Stdin
	}
	if *tty {
		done := make(chan struct{})
		defer close(done)
		query.Set("tty", "true")
		if options.TerminalSizeQueue, err = parseSizes(*size, done); err != nil {
			return err
		}
	} else {
		query.Set("stderr", "true")
		options.Stderr = os.Stderr
	}
	target.RawQuery = query.Encode()
	return run(config, target, *transport, options)
}

// The exit code is the command's; 255 is for everything else.
func main() {
	err := do()
	var exit exec.CodeExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.Code)
	case err != nil:
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(255)
	}
}
