package main

import (
	"context"
	"log"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	identity "rowlock.example/client/gen/rowlock/identity/v1"
)

// session is someone who is signed in.
type session struct {
	auth         identity.AuthServiceClient
	lock         sync.Mutex
	accessToken  string
	expireTime   time.Time
	refreshToken string
}

func signIn(ctx context.Context, auth identity.AuthServiceClient, email, password string) (*session, error) {
	answer, err := auth.SignIn(ctx, &identity.SignInRequest{Email: email, Password: password})
	if err != nil {
		return nil, err
	}
	return &session{
		auth:         auth,
		accessToken:  answer.AccessToken,
		expireTime:   answer.AccessTokenExpireTime.AsTime(),
		refreshToken: answer.RefreshToken,
	}, nil
}

// newcomer signs somebody up, who stays as a user of this system.
func newcomer(ctx context.Context, auth identity.AuthServiceClient, name string) (*session, error) {
	email, password := uuid.NewString()+"@rowlock.test", uuid.NewString()
	if _, err := auth.SignUp(ctx, &identity.SignUpRequest{Email: email, Password: password, DisplayName: name}); err != nil {
		return nil, err
	}
	return signIn(ctx, auth, email, password)
}

// refresh trades the refresh token, which is good for one use, for the next tokens.
func (s *session) refresh(ctx context.Context) error {
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.refreshLocked(ctx)
}

func (s *session) refreshLocked(ctx context.Context) error {
	// Not given up with the call that needs it: a refresh token whose answer is lost would be sent twice, which ends the session.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	answer, err := s.auth.RefreshTokens(ctx, &identity.RefreshTokensRequest{RefreshToken: s.refreshToken})
	if err != nil {
		return err
	}
	s.accessToken, s.expireTime, s.refreshToken = answer.AccessToken, answer.AccessTokenExpireTime.AsTime(), answer.RefreshToken
	return nil
}

func (s *session) credentials() grpc.CallOption { return grpc.PerRPCCredentials(s) }

// GetRequestMetadata gives each call an access token that is good for half a minute more.
func (s *session) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	if time.Until(s.expireTime) < 30*time.Second {
		if err := s.refreshLocked(ctx); err != nil {
			return nil, err
		}
	}
	return map[string]string{"authorization": "Bearer " + s.accessToken}, nil
}

// RequireTransportSecurity is false for a system on this machine; outside it is true, with TLS credentials in dial.
func (s *session) RequireTransportSecurity() bool { return false }

// dial connects to all of these comma-separated addresses, as the service config says. Where a name stands for all
// replicas, it is just "dns:///name:port".
func dial(addresses string) (*grpc.ClientConn, error) {
	serviceConfig, err := os.ReadFile("../../service-config.json")
	if err != nil {
		return nil, err
	}
	var replicas resolver.State
	for address := range strings.SplitSeq(addresses, ",") {
		endpoint := resolver.Endpoint{Addresses: []resolver.Address{{Addr: strings.TrimPrefix(address, "http://")}}}
		replicas.Endpoints = append(replicas.Endpoints, endpoint)
	}
	list := manual.NewBuilderWithScheme("replicas")
	list.InitialState(replicas)
	return grpc.NewClient("replicas:///rowlock",
		grpc.WithResolvers(list),
		grpc.WithDefaultServiceConfig(string(serviceConfig)),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
}

func environment(name string) string {
	value := os.Getenv(name)
	if value == "" {
		log.Fatalf("%s is not set: source deploy/local/.state/local.env", name)
	}
	return value
}
