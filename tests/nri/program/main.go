// A plugin on the stub of containerd/nri, as plugins in Go are: it adjusts each container, and prints a line for each event.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
)

type plugin struct{}

func (*plugin) Configure(_ context.Context, _, runtime, _ string) (stub.EventMask, error) {
	fmt.Println("configure", runtime)
	return 0, nil
}

func (*plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	fmt.Println("synchronize", len(pods), len(containers))
	return nil, nil
}

func (*plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	fmt.Println("run", pod.GetName())
	return nil
}

func (*plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	fmt.Println("stop", pod.GetName())
	return nil
}

func (*plugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	fmt.Println("remove", pod.GetName())
	return nil
}

func (*plugin) CreateContainer(_ context.Context, _ *api.PodSandbox, container *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	fmt.Println("create", container.GetName())
	if container.GetName() == "refused" {
		return nil, nil, fmt.Errorf("not in this pod")
	}
	adjustment := &api.ContainerAdjustment{}
	adjustment.AddEnv("ADDED", "by go")
	adjustment.AddRlimit("RLIMIT_NOFILE", 77, 77)
	adjustment.AddMount(&api.Mount{Destination: "/added", Type: "tmpfs", Source: "added", Options: []string{"size=1m"}})
	return adjustment, nil, nil
}

func (*plugin) UpdateContainer(_ context.Context, _ *api.PodSandbox, container *api.Container, limits *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	fmt.Println("update", container.GetName(), limits.GetCpu().GetShares().GetValue())
	return nil, nil
}

func (*plugin) StopContainer(_ context.Context, _ *api.PodSandbox, container *api.Container) ([]*api.ContainerUpdate, error) {
	fmt.Println("ended", container.GetName())
	return nil, nil
}

func (*plugin) RemoveContainer(_ context.Context, _ *api.PodSandbox, container *api.Container) error {
	fmt.Println("removed", container.GetName())
	return nil
}

// A plugin that the runtime starts has its connection and its name from it; otherwise the argument is the runtime's socket.
func main() {
	options := []stub.Option{}
	if len(os.Args) > 1 {
		options = []stub.Option{stub.WithPluginName("go"), stub.WithPluginIdx("20"), stub.WithSocketPath(os.Args[1])}
	}
	made, err := stub.New(&plugin{}, options...)
	if err == nil {
		err = made.Run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
