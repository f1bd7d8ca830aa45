//! The way in to the gRPC services: calls of the messaging service go straight to it, all others through a router.
//!
//! A router of many services boxes, clones and matches for each call. The calls that messages come and go by are
//! nearly all there are, and their path says by its first part that they are one service's; so they pay for none
//! of it. What the others are is decided as before, and so is what the messaging service does not know.

use std::convert::Infallible;

use futures::future::Either;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{Context, Poll, Service};
use tonic::server::NamedService;
use tonic::service::Routes;

/// One service at hand, and the others.
#[derive(Clone, Debug)]
pub struct Front<S> {
    at_hand: S,
    others: Routes,
}

impl<S: NamedService> Front<S> {
    /// Calls whose path names `at_hand` go there, the rest to `others`.
    #[must_use]
    pub fn new(at_hand: S, others: Routes) -> Self {
        Self { at_hand, others }
    }

    /// Whether a path is one of the service at hand: `/package.Service/Method`.
    fn is_at_hand(path: &str) -> bool {
        let named = path.strip_prefix('/').and_then(|p| p.strip_prefix(S::NAME));
        named.is_some_and(|rest| rest.starts_with('/'))
    }
}

impl<S> Service<Request<Body>> for Front<S>
where
    S: NamedService + Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, <Routes as Service<Request<Body>>>::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        match self.at_hand.poll_ready(context) {
            Poll::Ready(Ok(())) => Service::<Request<Body>>::poll_ready(&mut self.others, context),
            other => other,
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if Self::is_at_hand(request.uri().path()) {
            Either::Left(self.at_hand.call(request))
        } else {
            Either::Right(self.others.call(request))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, ready};

    use super::*;

    /// Says in a header that it was called.
    #[derive(Clone, Debug)]
    struct Named<const AT_HAND: bool>;

    impl NamedService for Named<true> {
        const NAME: &'static str = "package.Service";
    }

    impl NamedService for Named<false> {
        const NAME: &'static str = "package.Other";
    }

    impl<const AT_HAND: bool> Service<Request<Body>> for Named<AT_HAND> {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Ready<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            let who = if AT_HAND { "at hand" } else { "other" };
            let answer = Response::builder().header("who", who).body(Body::empty());
            ready(Ok(answer.unwrap()))
        }
    }

    #[tokio::test]
    async fn a_path_decides_who_is_called() {
        let mut front = Front::new(Named::<true>, Routes::new(Named::<false>).prepare());
        let cases = [
            ("/package.Service/Method", Some("at hand")),
            ("/package.Service/", Some("at hand")),
            ("/package.Other/Method", Some("other")),
            ("/package.Service2/Method", None),
            ("/package.Service", None),
            ("/", None),
        ];
        for (path, who) in cases {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let answer = front.call(request).await.unwrap();
            let called = answer.headers().get("who").map(|who| who.to_str().unwrap());
            assert_eq!(called, who, "{path}");
            // What nobody knows is told so as gRPC tells it.
            let status = answer.headers().get("grpc-status").is_some();
            assert_eq!(status, who.is_none(), "{path}");
        }
    }
}
