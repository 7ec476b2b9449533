
=pod

=head1 NAME

PrometheusExporter - a real prometheus-postgres-exporter with the queries of doc/

=head1 SYNOPSIS

  use PrometheusExporter;

  my $exporter = PrometheusExporter->new($node, user => 'monitor', options => ['--auto-discover-databases']);
  my $scrape = $exporter->scrape;
  is($scrape->{samples}{nats_publish_failed_total}{'datname=postgres,mode=sync'}, 1);

=head1 DESCRIPTION

It listens on a free port of 127.0.0.1, and is gone when the test ends. Its log goes to tmp_check/log.

=cut

package PrometheusExporter;

use strict;
use warnings FATAL => 'all';

use parent 'HelperProcess';

use HTTP::Tiny;
use POSIX ();

use PostgreSQL::Test::Utils;

use PublishTest;

=pod

=head1 METHODS

=over

=item PrometheusExporter->new($node, queries => $path, dbname => ..., user => ..., options => [...])

Starts it, and returns when it answers.

=item $exporter->scrape

A hash: C<status> and C<content> of HTTP; C<types>, of each metric; C<samples>, by their name, then by their labels as in
C<datname=app,mode=sync>, in the order of the names and without "server".

=item $exporter->stop, $exporter->log_content

=back

=cut

sub new
{
	my ($class, $node, %args) = @_;
	my $port = free_port();
	my $self = bless {
		url => "http://127.0.0.1:$port/metrics",
		dir => PostgreSQL::Test::Utils::tempdir('exporter'),
		log => "$PostgreSQL::Test::Utils::log_path/exporter_$port.log",
	}, $class;
	$self->keep;

	my $source = 'sslmode=disable user=' . ($args{user} // 'postgres') . ' host=' . $node->host . ' port=' . $node->port .
		' dbname=' . ($args{dbname} // 'postgres');
	my @command = ('prometheus-postgres-exporter', "--extend.query-path=$args{queries}", "--web.listen-address=127.0.0.1:$port",
		@{ $args{options} // [] });
	$self->{pid} = fork() // die "fork: $!";
	if ($self->{pid} == 0)
	{
		$ENV{DATA_SOURCE_NAME} = $source;
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>', $self->{log});
		open(STDERR, '>&', \*STDOUT);
		{ no warnings 'exec'; exec(@command); }
		# not exit(): the parent's END blocks are here too
		POSIX::_exit(127);
	}
	# should the test be killed, test/run ends what has such a file
	append_to_file("$self->{dir}/exporter.pid", "$self->{pid}\n");
	# 599 is HTTP::Tiny's own: nobody listens yet
	wait_for('the exporter', sub { $self->scrape->{status} != 599 });
	return $self;
}

sub scrape
{
	my ($self) = @_;
	die "the exporter has ended:\n" . $self->log_content if waitpid($self->{pid}, POSIX::WNOHANG) != 0;
	my $response = HTTP::Tiny->new(timeout => $PostgreSQL::Test::Utils::timeout_default)->get($self->{url});
	my (%types, %samples);
	foreach my $line (split /\n/, $response->{content})
	{
		$types{$1} = $2 if $line =~ /^# TYPE (\w+) (\w+)$/;
		my ($name, $labels, $value) = $line =~ /^(\w+)(?:\{(.*)\})? (\S+)$/ or next;
		my %label = ($labels // '') =~ /(\w+)="((?:\\.|[^"\\])*)"/g;
		delete $label{server};
		$samples{$name}{ join ',', map { "$_=$label{$_}" } sort keys %label } = $value;
	}
	return { status => $response->{status}, content => $response->{content}, types => \%types, samples => \%samples };
}

sub log_content { return slurp_file($_[0]->{log}); }

1;
