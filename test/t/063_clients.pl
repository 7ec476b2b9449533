# The programs with which README.md reads messages: each gets what was published, once. A program runs where its language and its
# client are: npm can install that of Node; that of Go is the one of Debian; that of Python is where somebody has it.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use Documentation;
use NatsClient;
use PublishTest;

my $dir = PostgreSQL::Test::Utils::tempdir('clients');
my $GOPATH = '/usr/share/gocode';

sub works { my ($command) = @_; return system("$command >/dev/null 2>&1") == 0; }

my %LANGUAGES = (
	go => {
		is_there => sub { works('go version') && -d "$GOPATH/src/github.com/nats-io/nats.go/jetstream" },
		command => sub { "cd '$dir' && GO111MODULE=off GOPATH='$GOPATH' GOCACHE='$dir/cache' GOFLAGS= HOME='$dir' go run '$_[0]'" } },
	js => {
		is_there => sub { works('node --version') && works("npm install --prefix '$dir' --cache '$dir/npm' --no-audit --no-fund --silent \@nats-io/transport-node\@3 \@nats-io/jetstream\@3") },
		command => sub { "cd '$dir' && mv '$_[0]' '$_[0].mjs' && node '$_[0].mjs'" } },
	python => {
		is_there => sub { works('python3 -c "import nats.js"') },
		command => sub { "python3 '$_[0]'" } });

my ($nats) = nats_with_stream('ORDERS', ['orders.>']);
my $node = publishing_node('main', 'nats_publish.url' => $nats->url);
$node->safe_psql('postgres', q(SELECT nats_publish('orders.' || i, 'message ' || i, msg_id => 'id-' || i) FROM generate_series(1, 3) AS i));

my @expected = map { "orders.$_ id-$_ message $_" } 1 .. 3;
my $port = $nats->port;

foreach my $language (sort keys %LANGUAGES)
{
	SKIP:
	{
		skip "the client of $language is not there", 2 unless $LANGUAGES{$language}{is_there}->();
		my ($example, @others) = blocks('README.md', $language);
		is(scalar(@others), 0, "there is one program in $language");
		my $file = "$dir/program.$language";
		append_to_file($file, $example->{text} =~ s/127\.0\.0\.1:4222/127.0.0.1:$port/r);
		my $output = `{ @{[ $LANGUAGES{$language}{command}->($file) ]}; } 2>&1`;
		is_deeply([ split /\n/, $output ], \@expected, "the program in $language has read each message");
	}
}

# What each has acknowledged, the server does not keep for it. Compilers and npm can take so long that a client that is silent is left.
my @consumers = @{ NatsClient->new(url => $nats->url)->js('CONSUMER.LIST.ORDERS', {})->{consumers} // [] };
is_deeply([ map { "$_->{name}: $_->{num_pending} $_->{num_ack_pending}" } grep { $_->{num_pending} || $_->{num_ack_pending} } @consumers ], [], 'and acknowledged it');

done_testing();
